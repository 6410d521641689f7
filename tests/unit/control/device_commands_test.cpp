// device_add, device_del, x-handover-query-devices, and what refuses postcopy: over QMP, with real devices.

#include "control/device_commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <future>
#include <thread>

#include "control/device_json.h"
#include "control/machine_control.h"
#include "control/qmp_client.h"
#include "unit/vmm/served_vm.h"

namespace handover::control {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;

/// A machine with devices, its QMP socket, and a client of it.
class ControlledVm {
 public:
  explicit ControlledVm(const std::vector<test::ServedOptions>& devices, bool incoming = false)
      : served(devices, {.memory = 32 * MiB, .devices = {}, .guest = {}, .incoming = incoming}) {
    main_.start_thread();
    const auto path = served.folder.file("qmp");
    main_.call([&] {
      auto made = MachineControl::create(main_, {.qmp_path = path,
                                                 .machine = served.vm->machine(),
                                                 .ram = served.vm->ram(),
                                                 .blockers = served.vm->blockers(),
                                                 .quit = [](int) {},
                                                 .guest_report = {},
                                                 .verify = {},
                                                 .vm = served.vm.get()});
      if (!made) throw std::runtime_error(made.error().to_string());
      control_ = std::move(*made);
    });
    auto connected = QmpClient::connect(path, {});
    if (!connected) throw std::runtime_error(connected.error().to_string());
    client_ = std::make_unique<QmpClient>(std::move(*connected));
  }
  ~ControlledVm() {
    std::promise<void> closed;
    control_->close([&] { closed.set_value(); });
    closed.get_future().wait();
    main_.call([&] { control_.reset(); });
  }
  ControlledVm(const ControlledVm&) = delete;
  ControlledVm& operator=(const ControlledVm&) = delete;

  json ask(std::string_view command, json arguments = json::object()) {
    auto answer = client_->execute(command, std::move(arguments));
    return answer ? *answer : json{{"error", answer.error().to_string()}};
  }
  void must(std::string_view command, json arguments = json::object()) {
    EXPECT_EQ(ask(command, std::move(arguments)), json::object()) << command;
  }
  std::string refused(std::string_view command, json arguments = json::object()) {
    const auto answer = ask(command, std::move(arguments));
    EXPECT_TRUE(answer.is_object() && answer.contains("error")) << command << " was answered with " << answer;
    return answer.is_object() ? answer.value("error", "") : "";
  }
  /// What plugs a device that is served from now on.
  json fresh(const test::ServedOptions& options = {}) {
    const auto device = served.serve(options);
    return {{"driver", "vfio-user-pci"},
            {"id", device.id},
            {"socket", {{"type", "unix"}, {"path", device.socket}}}};
  }
  std::vector<std::string> ids() {
    std::vector<std::string> all;
    for (const auto& device : ask("x-handover-query-devices"))
      all.push_back(device.at("id"));
    return all;
  }
  QmpClient& client() { return *client_; }

  test::ServedVm served;

 private:
  EventLoop main_{"main"};
  std::unique_ptr<MachineControl> control_;
  std::unique_ptr<QmpClient> client_;
};

std::vector<test::ServedOptions> plain(std::size_t count) {
  return std::vector<test::ServedOptions>(count);
}

TEST(DeviceCommands, ADeviceIsPluggedShownAndUnplugged) {
  ControlledVm machine(plain(1));
  machine.must("cont");
  const auto extra = machine.fresh();
  machine.must("device_add", extra);
  EXPECT_THAT(machine.ids(), testing::ElementsAre("accel0", "accel1"));
  machine.must("device_del", {{"id", "accel1"}});
  for (std::string name; name != "DEVICE_DELETED";) {
    auto event = machine.client().next_event({}, std::chrono::steady_clock::now() + std::chrono::minutes(1));
    ASSERT_TRUE(event && *event);
    name = (*event)->name;
    if (name == "DEVICE_DELETED") {
      EXPECT_EQ((*event)->data, (json{{"device", "accel1"}, {"path", "/machine/peripheral/accel1"}}));
    }
  }
  EXPECT_THAT(machine.ids(), testing::ElementsAre("accel0"));
  EXPECT_THAT(machine.refused("device_del", {{"id", "accel1"}}), HasSubstr("no device `accel1`"));
  auto elsewhere = extra;
  elsewhere["socket"] = extra["socket"]["path"];
  elsewhere["addr"] = "0x1a";
  machine.must("device_add", elsewhere);
  EXPECT_EQ(machine.ask("x-handover-query-devices").at(1).at("slot"), 0x1a);
}

TEST(DeviceCommands, ADeviceOfTheKernelHasThePropertiesOfQemus) {
  ControlledVm machine(plain(1));
  const json device{{"driver", "vfio-pci"}, {"id", "vf"}};
  const auto with = [&](const json& more) {
    auto all = device;
    all.update(more);
    return machine.refused("device_add", all);
  };
  EXPECT_THAT(with(json::object()), HasSubstr("'host' is missing"));
  EXPECT_THAT(with({{"socket", "/run/a.sock"}, {"host", "0000:99:00.0"}}), HasSubstr("no property 'socket'"));
  EXPECT_THAT(with({{"host", "0000:99:00.0"}, {"sysfsdev", "/sys/a"}}), HasSubstr("exclude each other"));
  EXPECT_THAT(with({{"host", "ffff:99:00.0"}}), HasSubstr("there is no device ffff:99:00.0"));
  auto foreign = machine.fresh();
  foreign["host"] = "0000:99:00.0";
  EXPECT_THAT(machine.refused("device_add", foreign), HasSubstr("no property 'host'"));
  EXPECT_THAT(machine.refused("device_add", {{"driver", "e1000"}, {"id", "net"}}),
              AllOf(HasSubstr("'vfio-user-pci'"), HasSubstr("'vfio-pci'")));
}

// Mission C7.
TEST(DeviceCommands, WhatEveryDeviceCanDoIsKnownBeforehand) {
  ControlledVm machine({{}, {.features = vfio::kMigrationStopCopy}, {.features = 0}, {.memory = 1 * MiB}});
  const auto devices = machine.ask("x-handover-query-devices");
  ASSERT_EQ(devices.size(), 4u);
  const auto& whole = devices[0];
  EXPECT_EQ(whole.at("path"), "0000:00:01.0");
  EXPECT_EQ(whole.at("vendor"), 0x484f);
  EXPECT_EQ(whole.at("dirty-tracking").at("tracker"), "device");
  EXPECT_THAT(whole.at("dirty-tracking").at("reason").get<std::string>(), HasSubstr("logs its own DMA"));
  EXPECT_EQ(whole.at("dma-mappings"), nullptr);
  EXPECT_EQ(whole.at("blocker"), nullptr);
  EXPECT_EQ(whole.at("lost"), false);
  auto migration = whole.at("migration");
  EXPECT_GT(migration.at("stop-copy-size"), 128 * KiB) << "its window at least";
  migration.erase("stop-copy-size");
  EXPECT_EQ(migration, (json{{"supported", true},
                             {"protocol", "v2"},
                             {"pre-copy", true},
                             {"p2p", true},
                             {"pending-bytes", nullptr},
                             {"state", "running"}}));
  EXPECT_EQ(devices[1].at("migration").at("p2p"), false);
  EXPECT_THAT(devices[1].at("blocker").get<std::string>(), HasSubstr("P2P"));
  EXPECT_EQ(devices[2].at("migration").at("supported"), false);
  EXPECT_EQ(devices[2].at("migration").at("protocol"), "none");
  EXPECT_EQ(devices[2].at("migration").at("stop-copy-size"), nullptr);
  EXPECT_THAT(devices[2].at("blocker").get<std::string>(), HasSubstr("does not support migration"));

  // And trying names every reason.
  EXPECT_THAT(machine.refused("migrate", {{"uri", "unix:/nowhere"}}),
              AllOf(HasSubstr("`accel1` has no P2P"), HasSubstr("`accel2` cannot migrate")));
  EXPECT_EQ(machine.ask("query-migrate").at("blocked-reasons").size(), 2u);
  machine.must("device_del", {{"id", "accel2"}});
  machine.must("device_del", {{"id", "accel1"}});
  EXPECT_FALSE(machine.ask("query-migrate").contains("blocked-reasons"));
}

TEST(DeviceCommands, WhileAMigrationIsUnderWayDevicesNeitherComeNorGo) {
  ControlledVm source(plain(1));
  ControlledVm destination(plain(1), true);
  const auto extra = source.fresh();
  const json stream{{"uri", "unix:" + source.served.folder.file("stream")}};
  destination.must("device_add", destination.fresh());
  destination.must("device_del", {{"id", "accel1"}});
  destination.must("migrate-incoming", stream);
  EXPECT_THAT(destination.refused("device_del", {{"id", "accel0"}}), HasSubstr("incoming"));
  source.must("cont");
  source.must(
      "migrate-set-capabilities",
      {{"capabilities", json::array({{{"capability", "pause-before-switchover"}, {"state", true}}})}});
  source.must("migrate-set-parameters", {{"max-bandwidth", 0}, {"downtime-limit", 60000}});
  source.must("migrate", stream);
  EXPECT_THAT(source.refused("device_add", extra),
              HasSubstr("cannot plug a device now: a migration is under"));
  EXPECT_THAT(source.refused("device_del", {{"id", "accel0"}}), HasSubstr("under way"));
  ASSERT_TRUE(source.served.wait_for(
      [&] { return source.ask("query-migrate").value("status", "") == "pre-switchover"; }));
  const auto device = source.ask("x-handover-query-devices").at(0).at("migration");
  EXPECT_EQ(device.at("state"), "stop-copy");
  EXPECT_TRUE(device.at("pending-bytes").is_number());
  EXPECT_EQ(device.at("stop-copy-size"), nullptr) << "it answers to the migration alone";
  source.must("migrate-continue", {{"state", "pre-switchover"}});
  ASSERT_TRUE(
      source.served.wait_for([&] { return source.ask("query-migrate").value("status", "") == "completed"; }));
  EXPECT_THAT(source.refused("device_add", extra), HasSubstr("postmigrate"));
  ASSERT_TRUE(destination.served.wait_for(
      [&] { return destination.ask("query-migrate").value("status", "") == "completed"; }));
  destination.must("device_add", destination.fresh());
  destination.must("device_del", {{"id", "accel0"}});
}

TEST(DeviceCommands, ArgumentsAreChecked) {
  const json sound{{"driver", "vfio-user-pci"}, {"id", "a"}, {"socket", "/x"}};
  auto with = [&](const char* member, json value) {
    auto changed = sound;
    changed[member] = std::move(value);
    const auto device = device_arguments(changed);
    return device ? fmt::format("{}:{}", device->socket, device->slot) : device.error().to_string();
  };
  EXPECT_EQ(with("id", "b"), "/x:0");
  EXPECT_EQ(with("addr", "0x3"), "/x:3");
  EXPECT_EQ(with("addr", "1f.0"), "/x:31");
  EXPECT_EQ(with("addr", 31), "/x:31");
  EXPECT_EQ(with("socket", {{"type", "unix"}, {"path", "/y"}}), "/y:0");
  for (const json& bad :
       {json(0), json(32), json(-1), json("20"), json("x"), json(""), json("3.1"), json(1.5)})
    EXPECT_THAT(with("addr", bad), HasSubstr("PCI slot")) << bad;
  EXPECT_THAT(with("driver", "e1000"), HasSubstr("vfio-user-pci"));
  EXPECT_THAT(with("driver", 3), HasSubstr("driver"));
  EXPECT_THAT(with("id", "no id"), HasSubstr("id of 1 to"));
  EXPECT_THAT(with("socket", {{"type", "inet"}, {"path", "/y"}}), HasSubstr("'unix'"));
  EXPECT_THAT(with("socket", {{"type", "unix"}}), HasSubstr("'path'"));
  EXPECT_THAT(with("socket", json::array()), HasSubstr("socket"));
  EXPECT_THAT(with("socket", ""), HasSubstr("socket"));
  EXPECT_THAT(with("bus", "pci.0"), HasSubstr("'bus'"));
  EXPECT_FALSE(device_arguments(json::array()));
  EXPECT_THAT(device_arguments({{"driver", "vfio-user-pci"}, {"id", "a"}}).error().to_string(),
              HasSubstr("'socket' is missing"));
}

// Mission A9.
TEST(DeviceCommands, PostcopyIsRefusedWithTheReason) {
  ControlledVm machine(plain(0));
  for (const auto* command : {"migrate-start-postcopy", "migrate-pause"})
    EXPECT_THAT(machine.refused(command), AllOf(HasSubstr(command), HasSubstr("DMA")));
  EXPECT_THAT(machine.refused("migrate-recover", {{"uri", "tcp:a:1"}}), HasSubstr("DMA"));
  EXPECT_THAT(machine.refused("migrate-recover", {{"url", "tcp:a:1"}}), HasSubstr("'url'"));
}

TEST(DeviceCommands, ClosingEndsTheWaitForADeviceThatDoesNotAnswer) {
  auto machine = std::make_unique<ControlledVm>(plain(0));
  const auto path = machine->served.folder.file("silent");
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::ranges::copy(path, address.sun_path);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  CancelSource enough;
  std::thread asker([&] {
    (void)machine->client().execute(
        "device_add", {{"driver", "vfio-user-pci"}, {"id", "silent"}, {"socket", path}}, enough.token());
  });
  const UniqueFd accepted(::accept(listener.get(), nullptr, nullptr));
  enough.cancel();
  asker.join();
  const auto before = std::chrono::steady_clock::now();
  machine.reset();
  // An answer may take 30 s, and does not come: the end does not wait for it.
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(25));
}

}  // namespace
}  // namespace handover::control
