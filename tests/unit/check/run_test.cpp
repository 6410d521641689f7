// What a run leaves behind, and how it ends when it cannot go on.

#include <gmock/gmock.h>

#include <algorithm>

#include "handover/check/report.h"
#include "unit/check/checked_device.h"

namespace handover::check {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr std::uint32_t kWindow = 2;

Bytes pattern() {
  Bytes bytes(8192);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i * 31);
  return bytes;
}
void fill_window(CheckedDevice& checked) {
  ASSERT_TRUE(checked.device->region_write(kWindow, 0, pattern()));
}
Bytes window(CheckedDevice& checked) {
  Bytes bytes(8192);
  EXPECT_TRUE(checked.device->region_read(kWindow, 0, bytes));
  return bytes;
}

TEST(Run, WithoutExclusiveNothingIsResetOrLoaded) {
  CheckedDevice checked;
  fill_window(checked);
  auto& device = *checked.device;
  bool harmed = false;
  device.hooks.reset = [&] {
    harmed = true;
    return device.real.reset();
  };
  device.hooks.set_state = [&](DeviceState to) {
    harmed = harmed || to == DeviceState::resuming;
    return device.protocol().set_state(to);
  };
  const auto report = checked.run({});
  EXPECT_TRUE(report.green()) << summary(report);
  EXPECT_FALSE(harmed);
  EXPECT_THAT(report.state, StartsWith("kept"));
  EXPECT_EQ(window(checked), pattern());
  EXPECT_EQ(device.now(), DeviceState::running);
  for (const auto& entry : report.entries)
    EXPECT_EQ(entry.check.exclusive, entry.finding.why.find("--exclusive") != std::string::npos)
        << entry.check.id;
}

TEST(Run, WithExclusiveTheStateIsPutBackAtTheEnd) {
  CheckedDevice checked;
  fill_window(checked);
  const auto report = checked.run({.exclusive = true});
  EXPECT_TRUE(report.green()) << summary(report);
  EXPECT_THAT(report.state, StartsWith("restored"));
  EXPECT_EQ(window(checked), pattern());
  EXPECT_EQ(checked.device->now(), DeviceState::running);
}

TEST(Run, ADeviceThatHadToBeResetGetsItsStateBack) {
  CheckedDevice checked;
  fill_window(checked);
  auto& device = *checked.device;
  device.hooks.set_state = [&](DeviceState to) -> Status {
    if (device.now() == DeviceState::pre_copy && to == DeviceState::running)
      return fail(Errc::device, "refused by a defect");
    return device.protocol().set_state(to);
  };
  const auto report = checked.run({.only = {"arc.pre-copy.running", "same.stop"}});
  EXPECT_EQ(find_entry(report, "arc.pre-copy.running")->finding.verdict, Verdict::failed);
  EXPECT_EQ(find_entry(report, "same.stop")->finding.verdict, Verdict::passed);
  EXPECT_THAT(report.state, StartsWith("restored"));
  EXPECT_EQ(window(checked), pattern());
}

TEST(Run, AStateThatCannotBePutBackIsSaid) {
  CheckedDevice checked;
  auto& device = *checked.device;
  device.hooks.write = [&](std::span<const std::byte>) -> Status {
    return fail(Errc::device, "refused by a defect");
  };
  const auto report = checked.run({.exclusive = true, .only = {"load.whole"}});
  EXPECT_FALSE(report.green());
  EXPECT_THAT(report.state, StartsWith("lost: what was saved before could not be loaded"));
  EXPECT_EQ(device.now(), DeviceState::running);
}

TEST(Run, WithoutAStateThatCouldBeSavedNothingIsLoaded) {
  CheckedDevice checked;
  auto& device = *checked.device;
  device.hooks.read = [&](std::span<std::byte>) -> Result<StateRead> {
    return fail(Errc::device, "refused by a defect");
  };
  const auto report = checked.run({.exclusive = true});
  EXPECT_EQ(find_entry(report, "stream.end")->finding.verdict, Verdict::failed);
  const auto& load = find_entry(report, "load.whole")->finding;
  EXPECT_EQ(load.verdict, Verdict::not_run);
  EXPECT_THAT(load.why, HasSubstr("no state could be saved before"));
}

TEST(Run, ADeviceThatCannotBeBroughtBackStopsEachCheckButNotTheRun) {
  CheckedDevice checked;
  auto& device = *checked.device;
  bool stuck = false;
  device.hooks.set_state = [&](DeviceState to) -> Status {
    if (stuck) return fail(Errc::device, "stuck by a defect");
    stuck = to == DeviceState::pre_copy_p2p;
    return device.protocol().set_state(to);
  };
  device.hooks.reset = []() -> Status { return fail(Errc::device, "stuck by a defect"); };
  const auto report = checked.run({.only = {"same"}});
  // It did what it asked for, and left a device that is of no use.
  const auto& last = find_entry(report, "same.pre-copy-p2p")->finding;
  EXPECT_EQ(last.verdict, Verdict::failed);
  EXPECT_THAT(report.state, StartsWith("unknown"));
  EXPECT_FALSE(report.ended_early);

  const auto after = checked.run({.only = {"same.stop"}});
  EXPECT_EQ(after.entries[0].finding.verdict, Verdict::not_run);
  EXPECT_THAT(after.entries[0].finding.why, HasSubstr("could not be brought back to running before"));
}

TEST(Run, ALostDeviceEndsTheRunAndTheRestSaysSo) {
  CheckedDevice checked;
  const auto report =
      checked.run({.exclusive = true}, {}, [&](const Description& next, std::size_t, std::size_t) {
        if (next.id == "stream.end") checked.kill_server();
      });
  ASSERT_TRUE(report.ended_early);
  EXPECT_THAT(*report.ended_early, HasSubstr("lost in stream.end"));
  EXPECT_FALSE(report.green());
  EXPECT_THAT(report.state, HasSubstr("lost"));
  bool after = false;
  for (const auto& entry : report.entries) {
    if (after) {
      EXPECT_EQ(entry.finding.verdict, Verdict::not_run) << entry.check.id;
    }
    if (entry.check.id == "stream.end") {
      EXPECT_EQ(entry.finding.verdict, Verdict::failed) << "whoever dies must not pass";
      after = true;
    }
  }
}

TEST(Run, AnAnswerThatDoesNotComeIsAFailure) {
  CheckedDevice checked;
  auto& device = *checked.device;
  // What the client does then: it gives the device up.
  device.hooks.set_state = [&](DeviceState to) -> Status {
    if (to != DeviceState::pre_copy) return device.protocol().set_state(to);
    device.gone = true;
    return fail(Errc::timeout, "no answer to DEVICE_FEATURE within 30000 ms");
  };
  const auto report = checked.run({});
  EXPECT_EQ(with_verdict(report, Verdict::failed).size(), 1u);
  EXPECT_THAT(with_verdict(report, Verdict::failed)[0], HasSubstr("no answer to DEVICE_FEATURE within"));
  EXPECT_TRUE(report.ended_early);
}

TEST(Run, AnInterruptionLeavesTheDeviceInOrder) {
  CheckedDevice checked;
  fill_window(checked);
  CancelSource cancel;
  auto& device = *checked.device;
  device.hooks.write = [&](std::span<const std::byte> from) {
    cancel.cancel("interrupted");  // amid a load
    return device.protocol().write(from);
  };
  const auto report = checked.run({.exclusive = true, .only = {"load.pieces.7", "reset"}}, cancel.token());
  ASSERT_TRUE(report.ended_early);
  EXPECT_THAT(*report.ended_early, HasSubstr("interrupted in load.pieces.7"));
  EXPECT_FALSE(report.green());
  for (const auto& entry : report.entries)
    EXPECT_EQ(entry.finding.verdict, Verdict::not_run) << entry.check.id;
  EXPECT_THAT(report.state, StartsWith("restored"));
  EXPECT_EQ(window(checked), pattern());
  EXPECT_EQ(device.now(), DeviceState::running);
}

TEST(Run, ArcsThatHangKernelsAreNotAskedForOnRequest) {
  CheckedDevice checked;
  auto& device = *checked.device;
  bool asked = false;
  device.hooks.set_state = [&](DeviceState to) {
    asked = asked || (device.now() == DeviceState::stop_copy &&
                      (to == DeviceState::pre_copy || to == DeviceState::pre_copy_p2p));
    return device.protocol().set_state(to);
  };
  const auto report = checked.run({.exclusive = true, .ask_hanging_arcs = false});
  EXPECT_FALSE(asked);
  EXPECT_TRUE(report.green());
  for (const char* id : {"illegal.stop-copy.pre-copy", "illegal.stop-copy.pre-copy-p2p"}) {
    EXPECT_EQ(find_entry(report, id)->finding.verdict, Verdict::not_run);
    EXPECT_THAT(find_entry(report, id)->finding.why, HasSubstr("not asked"));
  }
  checked.run({});
  EXPECT_TRUE(asked);
}

TEST(Run, StateOfWhichAlteredBytesAreTakenIsAWarning) {
  CheckedDevice checked;
  auto& device = *checked.device;
  device.hooks.set_state = [&](DeviceState to) -> Status {
    if (device.now() != DeviceState::resuming || to != DeviceState::stop)
      return device.protocol().set_state(to);
    if (device.protocol().set_state(to)) return {};
    HANDOVER_TRY(device.real.reset());
    return device.protocol().set_state(to);
  };
  device.hooks.write = [&](std::span<const std::byte> from) -> Status {
    (void)device.protocol().write(from);
    return {};
  };
  const auto report = checked.run({.exclusive = true, .only = {"load.corrupted", "load.extended"}});
  EXPECT_TRUE(report.green());
  EXPECT_EQ(report.count(Verdict::warned), 4u);
}

TEST(Run, AWriteErrorThatIsNotRememberedIsAWarning) {
  CheckedDevice checked;
  auto& device = *checked.device;
  device.hooks.write = [](std::span<const std::byte>) -> Status {
    return fail(Errc::device, "refused by a defect");
  };
  device.hooks.set_state = [&](DeviceState to) -> Status {
    if (device.now() == DeviceState::resuming && to == DeviceState::stop) HANDOVER_TRY(device.real.reset());
    return device.protocol().set_state(to);
  };
  const auto report = checked.run({.exclusive = true, .only = {"load.foreign"}});
  EXPECT_TRUE(report.green());
  ASSERT_EQ(report.count(Verdict::warned), 1u);
  EXPECT_THAT(report.entries[0].finding.why, HasSubstr("give up at the write's error"));
}

TEST(Run, PagesThatTheDeviceWritesAreLookedForInItsLog) {
  CheckedDevice checked;
  auto& device = *checked.device;
  device.hooks.set_state = [&](DeviceState to) {
    if (to == DeviceState::stop) checked.memory->at(Gpa{9 * kPageSize}, 1)[0] ^= std::byte{1};
    return device.protocol().set_state(to);
  };
  device.hooks.log_report = [&](const vfio::IovaRange& range) -> Result<Bytes> {
    HANDOVER_ASSIGN(auto bitmap, device.log().report(range));
    bitmap[1] = std::byte{2};
    return bitmap;
  };
  const auto report = checked.run({.only = {"log.content"}});
  EXPECT_EQ(report.entries[0].finding.verdict, Verdict::passed);
  EXPECT_EQ(report.entries[0].finding.why, "1 pages");
}

// Protocol v1: every read is a chunk, every chunk one write; and the driver knows few ways out of RESUMING.
TEST(Run, ADeviceThatKeepsChunksGetsThemAsItGaveThem) {
  CheckedDevice checked(5);
  auto& device = *checked.device;
  device.chunks = true;
  constexpr std::size_t kChunk = 50000;
  std::vector<std::size_t> given, taken;
  bool recut = false;
  device.hooks.set_state = [&](DeviceState to) -> Status {
    if (device.now() == DeviceState::resuming && to == DeviceState::stop_copy)
      return fail(Errc::unsupported, "a v1 driver has no such way");
    if (to == DeviceState::stop_copy && device.now() != DeviceState::pre_copy) given.clear();
    if (to == DeviceState::pre_copy) given.clear();
    if (to == DeviceState::resuming) taken.clear();
    return device.protocol().set_state(to);
  };
  device.hooks.read = [&, late = false](std::span<std::byte> to) mutable -> Result<StateRead> {
    if (to.size() < device.preferred_chunk()) return fail(Errc::invalid_argument, "too small for a chunk");
    // Now and then its data is late, in stop-copy, too.
    if (given.empty() && std::exchange(late, !late) && vfio::is_saving(device.now()))
      return StateRead{Kind::nothing_now, 0};
    auto got = device.protocol().read(to.first(kChunk));
    if (got && got->bytes > 0) given.push_back(got->bytes);
    return got;
  };
  device.hooks.write = [&](std::span<const std::byte> from) -> Status {
    if (device.now() == DeviceState::resuming) taken.push_back(from.size());
    recut = recut || (taken.size() > 1 && taken[taken.size() - 2] != kChunk && taken[taken.size() - 2] != 80);
    return device.protocol().write(from);
  };
  const auto report = checked.run(
      {.exclusive = true,
       .only = {"arc", "stream", "load.whole", "load.pieces", "load.pre-copy", "load.twice", "reset"}});
  EXPECT_THAT(with_verdict(report, Verdict::failed), IsEmpty());
  EXPECT_FALSE(recut);
  EXPECT_EQ(find_entry(report, "stream.pieces.7")->finding.verdict, Verdict::not_offered);
  EXPECT_EQ(find_entry(report, "load.pieces.1")->finding.verdict, Verdict::not_offered);
  EXPECT_EQ(find_entry(report, "load.whole")->finding.verdict, Verdict::passed);
  EXPECT_EQ(find_entry(report, "arc.resuming.stop-copy")->finding.verdict, Verdict::not_offered);
  EXPECT_EQ(find_entry(report, "arc.resuming.running")->finding.verdict, Verdict::passed);
}

// A client may send ahead and learn of a refusal with the next request only.
TEST(Run, ARefusalOfAWriteMayComeWithTheNextRequest) {
  CheckedDevice checked;
  auto& device = *checked.device;
  std::optional<Error> refused;
  device.hooks.write = [&](std::span<const std::byte> from) -> Status {
    if (auto earlier = std::exchange(refused, std::nullopt)) return std::unexpected(*earlier);
    if (auto written = device.protocol().write(from); !written) refused = written.error();
    return {};
  };
  device.hooks.set_state = [&](DeviceState to) -> Status {
    if (auto earlier = std::exchange(refused, std::nullopt)) return std::unexpected(*earlier);
    return device.protocol().set_state(to);
  };
  device.hooks.reset = [&] {
    refused.reset();
    return device.real.reset();
  };
  const auto report = checked.run({.exclusive = true});
  EXPECT_TRUE(report.green()) << to_table(report);
  EXPECT_THAT(with_verdict(report, Verdict::warned), IsEmpty());
}

TEST(Run, OnlyTakesIdsAndGroups) {
  CheckedDevice checked;
  EXPECT_EQ(checked.run({.only = {"stream.pieces.7"}}).entries.size(), 1u);
  EXPECT_EQ(checked.run({.only = {"stream.pieces"}}).entries.size(), 4u);
  EXPECT_EQ(checked.run({.only = {"same", "stream.end", "same.stop"}}).entries.size(), 8u);
  for (const char* wrong : {"strea", "stream.", "stream.pieces.71", "", "."}) {
    const auto report = check::run(*checked.device, *checked.memory, {.only = {wrong}}, {});
    ASSERT_FALSE(report) << wrong;
    EXPECT_THAT(report.error().to_string(), HasSubstr("--list"));
  }
}

TEST(Run, ADeviceWithoutALogOrAResetIsNotHeldToThem) {
  class Plain final : public vfio::Device {
   public:
    explicit Plain(vfio::Device& device) : real(device), info_(device.info()) {
      info_.flags &= ~vfio::kDeviceFlagReset;
    }
    vfio::Device& real;
    const std::string& id() const override { return real.id(); }
    const vfio::DeviceInfo& info() const override { return info_; }
    const vfio::RegionInfo& region(std::uint32_t index) const override { return real.region(index); }
    const vfio::IrqInfo& irq(std::uint32_t index) const override { return real.irq(index); }
    Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
      return real.region_read(index, offset, to);
    }
    Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
      return real.region_write(index, offset, from);
    }
    Result<Mapping> map_area(std::uint32_t index, const vfio::RegionArea& area) override {
      return real.map_area(index, area);
    }
    Status set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) override {
      return real.set_irq_eventfds(index, eventfds);
    }
    Status reset() override { return fail(Errc::unsupported, "no reset"); }
    Status dma_map(const vfio::DmaMapping& mapping) override { return real.dma_map(mapping); }
    Status dma_unmap(const vfio::IovaRange& range) override { return real.dma_unmap(range); }
    vfio::MigrationProtocol* migration() override { return migrates ? real.migration() : nullptr; }
    std::string migration_blocker() const override { return "it was made so"; }
    vfio::DmaLog* dma_log() override { return nullptr; }
    bool lost() const override { return real.lost(); }
    void on_lost(std::function<void(std::string reason)> handler) override {
      real.on_lost(std::move(handler));
    }
    bool migrates = true;

   private:
    vfio::DeviceInfo info_;
  };
  CheckedDevice checked;
  Plain plain(*checked.device);
  const auto report = check::run(plain, *checked.memory, {.exclusive = true}, {});
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->green());
  for (const auto& entry : report->entries) {
    const auto& id = entry.check.id;
    const bool needs_more = id.starts_with("log.") || id.starts_with("reset.") || id.ends_with(".lacking") ||
                            id.starts_with("load.truncated") || id.starts_with("load.corrupted") ||
                            id == "load.empty" || id == "load.foreign" || id == "load.extended" ||
                            id == "load.given-up";
    EXPECT_EQ(entry.finding.verdict, needs_more ? Verdict::not_offered : Verdict::passed)
        << id << ": " << entry.finding.why;
  }

  plain.migrates = false;
  const auto refused = check::run(plain, *checked.memory, {}, {});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("it was made so"));
}

}  // namespace
}  // namespace handover::check
