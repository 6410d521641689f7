// How a machine learns what its devices write: the choice, what it is shown as, and reports that make no
// sense.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "handover/vfio_user/client.h"
#include "handover/vfio_user/protocol.h"
#include "unit/memory/random_seed.h"
#include "unit/vmm/served_vm.h"
#include "unit/vmm/tampering_relay.h"

namespace handover::vmm {
namespace {

using test::migrate;
using test::ServedOptions;
using test::ServedVm;
using testing::AllOf;
using testing::HasSubstr;
using vfio::TrackerKind;

constexpr auto kPatience = std::chrono::minutes(3);

VmConfig machine(bool incoming = false) {
  const GuestOptions guest{
      .working_set = 4 * MiB, .dirty_rate = 10 * MiB, .job_rate = 800, .seed = test::random_seed()};
  return {.memory = 32 * MiB, .devices = {}, .guest = guest, .incoming = incoming};
}

void expect_sound(const ServedVm& machine) {
  const auto verified = machine.vm->verify(kPatience);
  ASSERT_TRUE(verified) << verified.error().to_string();
  EXPECT_EQ(machine.vm->guest().mismatches, 0u);
  EXPECT_EQ(machine.vm->guest().devices_lost, 0u);
}

TEST(VmDirty, TheChoiceAndItsReasonAreShown) {
  auto config = machine();
  ServedOptions plain;
  ServedOptions without;
  without.served.dma_logging = false;
  ServedVm here({plain, without}, config);
  const auto devices = here.vm->devices();
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0].dirty_tracking.kind, TrackerKind::device);
  EXPECT_EQ(devices[1].dirty_tracking.kind, TrackerKind::all);
  EXPECT_EQ(
      devices[1].dirty_tracking.reason,
      "device `accel1` has no DMA log; iommufd is not in use; no type1 container is in use; all pages are "
      "taken as dirty");
  ServedVm there({plain, without}, machine(true));
  ASSERT_TRUE(here.start());
  ASSERT_TRUE(here.do_jobs(50));
  const auto ended = migrate(here, there);
  ASSERT_EQ(ended.source, MigrationStatus::completed) << ended.figures.error;
  ASSERT_EQ(ended.figures.dirty_tracking.size(), 2u);
  EXPECT_EQ(ended.figures.dirty_tracking[0].tracker, "device");
  EXPECT_EQ(ended.figures.dirty_tracking[1].tracker, "all");
  EXPECT_THAT(ended.figures.dirty_tracking[1].reason, HasSubstr("has no DMA log"));
  ASSERT_TRUE(there.do_jobs(50));
  expect_sound(there);
}

// Mission A7: what devices write is left out of the passes and goes at the end.
TEST(VmDirty, WithoutPreCopyTrackingDevicesArriveWhole) {
  for (const auto tracker : {std::optional<TrackerKind>{}, std::optional{TrackerKind::all}}) {
    ServedOptions device;
    device.dirty_tracking = {.tracker = tracker, .pre_copy = false};
    ServedVm here({device}, machine());
    ServedVm there({device}, machine(true));
    ASSERT_TRUE(here.start());
    ASSERT_TRUE(here.do_jobs(50));
    const auto ended = migrate(here, there);
    ASSERT_EQ(ended.source, MigrationStatus::completed) << ended.figures.error;
    EXPECT_FALSE(ended.figures.dirty_tracking.at(0).pre_copy);
    ASSERT_TRUE(there.do_jobs(50));
    expect_sound(there);
  }
}

TEST(VmDirty, ATrackerThatIsNotThereIsRefusedByName) {
  ServedVm here({}, machine());
  auto config = machine();
  config.devices = {here.serve()};
  config.dirty_tracking = TrackerKind::iommufd;
  const auto made = Vm::create(config);
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().to_string(),
              AllOf(HasSubstr("`accel0`"), HasSubstr("dirty-page-tracking=iommufd is not possible"),
                    HasSubstr("iommufd is not in use")));
}

/// The report in an answer, if it is one.
std::byte* report_of(vfio_user::Message& answer) {
  using namespace vfio_user::protocol;
  if (answer.command() != Command::device_feature || answer.header.failed()) return nullptr;
  const auto feature = Feature::decode(answer.payload);
  // A probe is answered without one.
  if (!feature || feature->head.feature() != kFeatureDmaLoggingReport || feature->data.size() < 24)
    return nullptr;
  return answer.payload.data() + 8;
}

struct Wrong {
  const char* name;
  bool (*tamper)(vfio_user::Message& answer, std::byte* report);
  bool device_is_lost = false;
};

class MalformedReport : public testing::TestWithParam<Wrong> {};

TEST_P(MalformedReport, FailsTheMigrationByNameAndTheGuestRunsOn) {
  const auto wrong = GetParam();
  ServedVm here({}, machine());
  auto device = here.serve();
  std::atomic<bool> tampering{true};
  test::TamperingRelay relay(here.folder.file("relay"), device.socket, [&](vfio_user::Message& answer) {
    auto* report = report_of(answer);
    return !report || !tampering || wrong.tamper(answer, report);
  });
  device.socket = here.folder.file("relay");
  auto config = machine();
  config.devices = {device};
  // An answer that never comes is not waited for as long as usual.
  config.connect = [&](const DeviceOptions& options, GuestMemory& memory, const CancelToken& cancel) {
    const auto patience = wrong.device_is_lost ? std::chrono::milliseconds(2000) : std::chrono::minutes(2);
    return vfio_user::connect({.id = options.id, .socket_path = options.socket, .timeout = patience}, memory,
                              cancel);
  };
  here.vm = Vm::create(config).value();
  ASSERT_TRUE(here.start());
  ASSERT_TRUE(here.do_jobs(50));
  {
    ServedVm there({ServedOptions{}}, machine(true));
    const auto ended = migrate(here, there);
    EXPECT_EQ(ended.source, MigrationStatus::failed);
    EXPECT_NE(ended.destination, MigrationStatus::completed);
    EXPECT_THAT(ended.figures.error, HasSubstr("`accel0`"));
  }
  EXPECT_EQ(here.vm->machine().state(), RunState::running);
  if (wrong.device_is_lost) {
    const auto steps = here.vm->guest().steps;
    EXPECT_TRUE(here.wait_for([&] { return here.vm->guest().steps > steps + 100; }));
    EXPECT_EQ(here.vm->guest().panic, "");
    return;
  }
  ASSERT_TRUE(here.do_jobs(50));
  expect_sound(here);
  // Once the device answers as it should, it can go.
  tampering = false;
  ServedVm there({ServedOptions{}}, machine(true));
  const auto ended = migrate(here, there);
  ASSERT_EQ(ended.source, MigrationStatus::completed) << ended.figures.error;
  expect_sound(there);
}

template <std::size_t Offset>
bool change_word(vfio_user::Message&, std::byte* report) {
  store_le(report + Offset, load_le<std::uint64_t>(report + Offset) * 2 + kPageSize);
  return true;
}

INSTANTIATE_TEST_SUITE_P(
    VmDirty, MalformedReport,
    testing::Values(Wrong{"of_another_range", change_word<0>}, Wrong{"of_another_length", change_word<8>},
                    Wrong{"of_another_page_size", change_word<16>},
                    Wrong{"with_a_short_bitmap",
                          [](vfio_user::Message& answer, std::byte*) {
                            answer.payload.cut(answer.payload.size() - 8);
                            return true;
                          }},
                    Wrong{"without_a_bitmap",
                          [](vfio_user::Message& answer, std::byte*) {
                            answer.payload.cut(8 + 24);
                            return true;
                          }},
                    Wrong{"that_is_cut",
                          [](vfio_user::Message& answer, std::byte*) {
                            answer.payload.cut(12);
                            return true;
                          }},
                    Wrong{"that_never_comes", [](vfio_user::Message&, std::byte*) { return false; }, true}),
    [](const auto& about) { return std::string(about.param.name); });

}  // namespace
}  // namespace handover::vmm
