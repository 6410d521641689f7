// Machines with devices of a real kernel, moved between real processes.  Runs inside the test machine
// (run-vm): HANDOVER_MTTY names two mediated devices of the sample driver mtty, HANDOVER_EDU is QEMU's edu
// under vfio-pci, behind an emulated IOMMU.

#include <fcntl.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "handover/base/unique_fd.h"
#include "integration/two_machines.h"
#include "vm_devices.h"

namespace handover::test {
namespace {

using testing::HasSubstr;

/// The VM is emulated, and slow: little to send, and no limit that it could not keep.
json quickly() {
  return {{"max-bandwidth", 0}, {"downtime-limit", 60000}};
}

std::string mtty(std::size_t index) {
  return vm_devices("HANDOVER_MTTY").at(index);
}
std::string edu(std::size_t index) {
  return vm_devices("HANDOVER_EDU").at(index);
}

SideOptions small(std::vector<std::string> more = {}) {
  SideOptions options{.memory = "32M", .device_memory = "1M"};
  options.more = {"--dirty-rate", "4M", "--job-rate", "50"};
  options.more.insert(options.more.end(), more.begin(), more.end());
  return options;
}
/// A machine with an accelerator behind vfio-user, and the UART of that number behind the kernel.
SideOptions with_uart(std::size_t index, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"--device", fmt::format("vfio-pci,sysfsdev={},id=uart0", mtty(index))});
  return small(std::move(more));
}

std::uint64_t count(Side& side, const char* what) {
  return side.guest().value(what, std::uint64_t{0});
}

/// The guest gets on with all of its devices, and everything that they hold is right.
void expect_whole(Side& side, const char* work, std::uint64_t devices, const std::string& when) {
  const auto before = count(side, work);
  wait_until(fmt::format("{} {}", work, when), [&] { return count(side, work) > before; });
  const auto jobs = count(side, "jobs-completed");
  wait_until("jobs " + when, [&] { return count(side, "jobs-completed") > jobs; });
  const auto verified = side.ask("x-handover-verify");
  ASSERT_TRUE(verified) << when << ": " << verified.error().to_string();
  EXPECT_EQ(verified->at("devices"), devices) << when;
  EXPECT_EQ(verified->at("devices-lost"), 0) << when;
  EXPECT_EQ(count(side, "mismatches"), 0u) << when;
  EXPECT_EQ(count(side, "interrupts-lost"), 0u) << when;
}

void migrate(Side& from, const std::string& uri, TestFolder& folder) {
  ASSERT_TRUE(from.ask("migrate-set-parameters", quickly()));
  ASSERT_TRUE(from.ask("migrate", {{"uri", uri}}));
  wait_until("the migration", [&] { return is_final_status(from.migration_status()); });
  ASSERT_EQ(from.migration_status(), "completed")
      << folder.text("source.log") << folder.text("destination.log");
}

struct Way {
  const char* name;
  std::vector<std::string> more;
  bool multifd;
};
const Way kWays[] = {{"one channel", {}, false}, {"an IOMMU", {"--viommu"}, false}, {"multifd", {}, true}};

TEST(KernelMachine, MovesWithADeviceOfTheKernelAndOneOfVfioUserAndBackAgain) {
  for (const auto& way : kWays) {
    SCOPED_TRACE(way.name);
    TestFolder folder;
    auto source = std::make_unique<Side>(folder, "source", with_uart(0, way.more), false);
    Side destination(folder, "destination", with_uart(1, way.more), true);
    expect_whole(*source, "uart-bytes", 2, "before");
    source->set_capability("multifd", way.multifd);
    const auto sent = count(*source, "uart-bytes");
    ASSERT_NO_FATAL_FAILURE(migrate(*source, destination.listening_on(), folder));
    EXPECT_GE(count(destination, "uart-bytes"), sent) << "another guest";
    ASSERT_NO_FATAL_FAILURE(expect_whole(destination, "uart-bytes", 2, "there"));
    if (way.multifd) continue;

    source.reset();
    Side back(folder, "back", with_uart(0, way.more), true);
    ASSERT_NO_FATAL_FAILURE(migrate(destination, back.listening_on(), folder));
    expect_whole(back, "uart-bytes", 2, "back again");
  }
}

TEST(KernelMachine, IsSavedToAFileWithoutPreCopyAndGoesOnWithAnotherDevice) {
  TestFolder folder;
  const auto file = folder.file("saved");
  {
    Side source(folder, "source", with_uart(0), false);
    expect_whole(source, "uart-bytes", 2, "before");
    // A machine that stands still has no pre-copy: all of the device's state is read in STOP_COPY.
    ASSERT_TRUE(source.ask("stop"));
    ASSERT_NO_FATAL_FAILURE(migrate(source, "file:" + file, folder));
  }
  Side restored(folder, "destination", with_uart(1, {"--restore", file}), false);
  ASSERT_TRUE(restored.ask("cont"));
  expect_whole(restored, "uart-bytes", 2, "restored");
}

TEST(KernelMachine, RunsOnAfterACancelAndCanStillMove) {
  TestFolder folder;
  Side source(folder, "source", with_uart(0), false);
  {
    Side nowhere(folder, "nowhere", with_uart(1), true);
    ASSERT_TRUE(source.ask("migrate-set-parameters", {{"max-bandwidth", 65536}}));
    ASSERT_TRUE(source.ask("migrate", {{"uri", nowhere.listening_on()}}));
    wait_until("the migration to be under way", [&] { return source.migration_status() == "active"; });
    ASSERT_TRUE(source.ask("migrate_cancel"));
    wait_until("its end", [&] { return is_final_status(source.migration_status()); });
    EXPECT_EQ(source.migration_status(), "cancelled");
  }
  expect_whole(source, "uart-bytes", 2, "after the cancel");
  Side destination(folder, "destination", with_uart(1), true);
  ASSERT_NO_FATAL_FAILURE(migrate(source, destination.listening_on(), folder));
  expect_whole(destination, "uart-bytes", 2, "there");
}

TEST(KernelMachine, ADeviceComesAndGoesWhileItRunsAndNothingOfItStays) {
  TestFolder folder;
  Side machine(folder, "source", small(), false);
  const auto fds = [&] {
    std::size_t open = 0;
    const auto of = fmt::format("/proc/{}/fd", machine.machine().pid());
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(of))
      ++open;
    return open;
  };
  std::size_t before = 0;
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(
        machine.ask("device_add", {{"driver", "vfio-pci"}, {"id", "uart0"}, {"sysfsdev", mtty(round % 2)}}));
    ASSERT_TRUE(machine.ask("device_del", {{"id", "uart0"}}));
    if (round == 0) before = fds();
  }
  EXPECT_EQ(fds(), before);
  EXPECT_EQ(count(machine, "mismatches"), 0u);
}

TEST(KernelMachine, TakesADeviceThatWasOpenedForIt) {
  TestFolder folder;
  const auto nodes = std::filesystem::directory_iterator(mtty(0) + "/vfio-dev");
  const auto node = "/dev/vfio/devices/" + nodes->path().filename().string();
  UniqueFd device(::open(node.c_str(), O_RDWR));  // inherited
  UniqueFd iommufd(::open("/dev/iommu", O_RDWR));
  ASSERT_TRUE(device && iommufd);
  Side machine(
      folder, "source",
      small({"--device", fmt::format("vfio-pci,fd={},iommufd={},id=uart0", device.get(), iommufd.get())}),
      false);
  expect_whole(machine, "uart-bytes", 2, "at work");
}

// What a guest has a device do to its memory by DMA, through the IOMMU of the host.
TEST(KernelMachine, ADeviceReachesWhatTheGuestLetsItAndKeepsTheMachineHere) {
  for (const auto& way : {kWays[0], kWays[1]}) {
    SCOPED_TRACE(way.name);
    TestFolder folder;
    auto more = way.more;
    more.insert(more.begin(), {"--device", fmt::format("vfio-pci,host={},id=edu0", edu(0))});
    Side machine(folder, "source", small(std::move(more)), false);
    ASSERT_NO_FATAL_FAILURE(expect_whole(machine, "edu-rounds", 2, "of DMA"));

    const auto refused = machine.ask("migrate", {{"uri", "unix:" + folder.file("nobody")}});
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().to_string(), HasSubstr("`edu0`"));
    EXPECT_THAT(refused.error().to_string(), HasSubstr("`vfio-pci` has no migration"));
    const auto devices = machine.ask("x-handover-query-devices");
    ASSERT_TRUE(devices);
    EXPECT_EQ(devices->at(1).at("dirty-tracking").at("tracker"), "all");
    EXPECT_THAT(devices->at(1).at("dirty-tracking").at("reason").get<std::string>(),
                HasSubstr("all pages are taken as dirty"));

    // Without it the machine could go.
    ASSERT_TRUE(machine.ask("device_del", {{"id", "edu0"}}));
    Side destination(folder, "destination", small(way.more), true);
    ASSERT_NO_FATAL_FAILURE(migrate(machine, destination.listening_on(), folder));
    destination.expect_progress("there");
  }
}

// Each has registers that are mapped, and peer to peer is on; whether the host's IOMMU lets one reach the
// other's is its affair, and no reason not to run.
TEST(KernelMachine, TwoDevicesOfTheKernelRunSideBySide) {
  TestFolder folder;
  Side machine(folder, "source",
               small({"--device", fmt::format("vfio-pci,host={},id=edu0", edu(0)), "--device",
                      fmt::format("vfio-pci,host={},id=edu1", edu(1))}),
               false);
  ASSERT_NO_FATAL_FAILURE(expect_whole(machine, "edu-rounds", 3, "of DMA"));
  ASSERT_TRUE(machine.ask("stop"));
  ASSERT_TRUE(machine.ask("cont"));
  expect_whole(machine, "edu-rounds", 3, "after a stop");
}

// The host takes its device back while a guest uses it: the guest goes on without, and so can the host.
TEST(KernelMachine, ADeviceThatTheHostWantsBackIsLostAndLetGoOf) {
  TestFolder folder;
  Side machine(folder, "source", small({"--device", fmt::format("vfio-pci,host={},id=edu0", edu(0))}), false);
  ASSERT_NO_FATAL_FAILURE(expect_whole(machine, "edu-rounds", 2, "of DMA"));
  const auto unbind = fmt::format("echo {} > /sys/bus/pci/drivers/vfio-pci/unbind", edu(0));
  auto host = cli::ChildProcess::start({"/bin/sh", "-c", unbind}, {.name = "unbind", .stderr_path = {}});
  ASSERT_TRUE(host) << host.error().to_string();
  wait_until("the guest to miss its device", [&] { return count(machine, "devices-lost") == 1; });
  machine.expect_progress("without the device");
  const auto refused = machine.ask("migrate", {{"uri", "unix:" + folder.file("nobody")}});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("the host asks for it back"));
  EXPECT_TRUE(host->alive()) << "the host waits for the device to be let go of";
  ASSERT_TRUE(machine.ask("device_del", {{"id", "edu0"}}));
  wait_until("the host to have its device", [&] { return !host->alive(); });

  Side destination(folder, "destination", small(), true);
  ASSERT_NO_FATAL_FAILURE(migrate(machine, destination.listening_on(), folder));
  destination.expect_progress("there");
}

}  // namespace
}  // namespace handover::test
