// The v1 protocol's user against drivers as there were, and against ones that lie.

#include <gmock/gmock.h>

#include "unit/vfio_user/v1_driver.h"

namespace handover::vfio {
namespace {

using enum DeviceState;
using testing::ElementsAre;
using testing::HasSubstr;
using Kind = StateRead::Kind;
using Bytes = V1Driver::Bytes;

std::unique_ptr<V1Migration> opened(V1Driver& driver) {
  auto made = driver.open();
  EXPECT_TRUE(made) << made.error().to_string();
  return made ? std::move(*made) : nullptr;
}
Bytes chunk_of(std::size_t size, int seed) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>(i * 31 + i / 251 + static_cast<std::size_t>(seed));
  return bytes;
}
Bytes read_one(V1Migration& migration, Kind expected) {
  Bytes buffer(migration.preferred_chunk());
  const auto read = migration.read(buffer);
  EXPECT_TRUE(read) << read.error().to_string();
  if (!read) return {};
  EXPECT_EQ(read->kind, expected);
  buffer.resize(read->bytes);
  return buffer;
}
std::string read_error(V1Migration& migration) {
  Bytes buffer(migration.preferred_chunk());
  const auto read = migration.read(buffer);
  return read ? fmt::format("{} bytes", read->bytes) : read.error().to_string();
}

TEST(V1Migration, IsFoundByItsTypeAndIsAProtocolOfChunksWithPreCopyAndNoP2p) {
  V1Driver driver;
  const auto migration = opened(driver);
  EXPECT_EQ(migration->features(), kMigrationStopCopy | kMigrationPreCopy);
  EXPECT_TRUE(migration->keeps_chunks());
  EXPECT_EQ(migration->protocol_name(), "v1 region");
  EXPECT_EQ(migration->preferred_chunk(), 0x5000 - v1::kRegisterBlock);
  driver.migration_region().type.reset();
  EXPECT_FALSE(V1Migration::find_region(driver));
}

TEST(V1Migration, RegionsThatCannotCarryAStateAreRefusedWithAReason) {
  V1Driver driver;
  const auto refusal = [&] {
    auto made = driver.open();
    return made ? "opened" : made.error().to_string();
  };
  driver.resize(v1::kRegisterBlock);
  EXPECT_THAT(refusal(), HasSubstr("no room for data"));
  driver.resize(64 * MiB + 4096);
  EXPECT_EQ(refusal(), "opened");
  driver.resize(64 * MiB + 4097);
  EXPECT_THAT(refusal(), HasSubstr("67108864"));
  driver.resize(~std::uint64_t{0});
  EXPECT_THAT(refusal(), HasSubstr("67108864"));
  driver.resize(0x5000);
  driver.migration_region().flags = kRegionRead;
  EXPECT_THAT(refusal(), HasSubstr("no room for data"));
}

TEST(V1Migration, EveryPathOfTheTablesIsWalkedWithAsFewWritesAsV1Has) {
  const std::map<std::pair<DeviceState, DeviceState>, std::vector<std::uint32_t>> expected = {
      {{running, stop}, {0}},          {{running, pre_copy}, {3}},     {{running, stop_copy}, {2}},
      {{running, resuming}, {4}},      {{pre_copy, running}, {1}},     {{pre_copy, stop}, {2, 0}},
      {{pre_copy, stop_copy}, {2}},    {{pre_copy, resuming}, {1, 4}}, {{stop, running}, {1}},
      {{stop, pre_copy}, {1, 3}},      {{stop, stop_copy}, {2}},       {{stop, resuming}, {4}},
      {{stop_copy, running}, {1}},     {{stop_copy, stop}, {0}},       {{stop_copy, resuming}, {0, 4}},
      {{resuming, running}, {1}},      {{resuming, stop}, {0}},        {{resuming, pre_copy}, {1, 3}},
      {{resuming, stop_copy}, {0, 2}},
  };
  for (std::uint32_t from = 0; from < 5; ++from)
    for (std::uint32_t n = 0; n < kDeviceStateCount; ++n) {
      const auto to = *device_state_from(n);
      V1Driver driver;
      driver.state = from;
      const auto migration = opened(driver);
      const auto start = *v1::state_of(from);
      ASSERT_EQ(*migration->state(), start);
      const auto path = path_between(start, to, migration->features());
      const auto done = migration->set_state(to);
      EXPECT_EQ(done.has_value(), path.has_value()) << to_string(start) << " to " << to_string(to);
      EXPECT_EQ(*migration->state(), path ? to : start);
      const auto row = expected.find({start, to});
      EXPECT_EQ(driver.states_written, row == expected.end() ? std::vector<std::uint32_t>{} : row->second)
          << to_string(start) << " to " << to_string(to);
    }
}

TEST(V1Migration, ADriverWithNoMoreThanTheDemandedTransitionsIsSavedAndLoaded) {
  for (const auto& arcs : {kRequiredArcs, kLibvfioUserArcs}) {
    V1Driver driver(arcs);
    const auto migration = opened(driver);
    for (const auto to :
         {pre_copy, stop_copy, stop, running, stop_copy, running, pre_copy, running, resuming})
      ASSERT_TRUE(migration->set_state(to)) << to_string(to);
    ASSERT_TRUE(migration->write(chunk_of(100, 1)));
    // 4 to 0 is not among them: the device stays in RESUMING, stopped, until it is started.
    ASSERT_TRUE(migration->set_state(stop));
    EXPECT_EQ(*migration->state(), stop);
    EXPECT_EQ(driver.state, v1::kResuming);
    EXPECT_FALSE(migration->set_state(stop_copy));
    EXPECT_EQ(*migration->state(), stop);
    ASSERT_TRUE(migration->set_state(running));
    EXPECT_EQ(*migration->state(), running);
    EXPECT_EQ(driver.state, v1::kRunning);
  }
}

TEST(V1Migration, AStopThatWaitsForTheStartIsForgottenByAReset) {
  V1Driver driver(kRequiredArcs);
  const auto migration = opened(driver);
  ASSERT_TRUE(migration->set_state(resuming));
  ASSERT_TRUE(migration->set_state(stop));
  driver.state = v1::kRunning;  // a reset does that
  EXPECT_EQ(*migration->state(), running);
  ASSERT_TRUE(migration->set_state(resuming));
  EXPECT_EQ(*migration->state(), resuming);
}

TEST(V1Migration, PreCopyIsLeftByStoppingWhereTheDriverKnowsNoOtherWay) {
  V1Driver driver(kLibvfioUserArcs);
  const auto migration = opened(driver);
  ASSERT_TRUE(migration->set_state(pre_copy));
  ASSERT_TRUE(migration->set_state(running));
  EXPECT_THAT(driver.states_written, ElementsAre(3, 1, 0, 1));
}

TEST(V1Migration, ReservedBitsAreLeftAsTheDriverHasThem) {
  V1Driver driver;
  driver.state = 0xabcd'ef00 | v1::kRunning;
  const auto migration = opened(driver);
  ASSERT_TRUE(migration->set_state(pre_copy));
  EXPECT_EQ(driver.state, 0xabcd'ef00 | v1::kPreCopy);
}

TEST(V1Migration, ARefusedStateIsReadAgainAndSaid) {
  V1Driver driver;
  const auto migration = opened(driver);
  driver.on_state = [&](std::uint32_t) { return V1Driver::refused(EBUSY); };
  auto refused = migration->set_state(pre_copy);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("the device is in running"));
  EXPECT_EQ(refused.error().sys_errno(), EBUSY);
  driver.on_state = [&](std::uint32_t) {
    driver.state = v1::kError;
    return V1Driver::refused(EIO);
  };
  refused = migration->set_state(pre_copy);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("the device is in error"));
  EXPECT_EQ(*migration->state(), error);
  driver.on_state = nullptr;
  const auto writes = driver.states_written.size();
  EXPECT_FALSE(migration->set_state(running)) << "only a reset leaves the error state";
  EXPECT_EQ(driver.states_written.size(), writes);
}

TEST(V1Migration, AFailedLoadIsNotTakenForAMissingTransition) {
  V1Driver driver;
  const auto migration = opened(driver);
  ASSERT_TRUE(migration->set_state(resuming));
  driver.on_state = [&](std::uint32_t) {
    driver.state = v1::kError;
    return V1Driver::refused(EINVAL);
  };
  EXPECT_FALSE(migration->set_state(stop));
  EXPECT_EQ(*migration->state(), error);
}

TEST(V1Migration, StatesThatMeanNothingAndWritesWithoutEffectAreErrorsOfTheDevice) {
  V1Driver driver;
  const auto migration = opened(driver);
  driver.on_state = [](std::uint32_t) { return Status(); };
  const auto ignored = migration->set_state(stop);
  ASSERT_FALSE(ignored);
  EXPECT_THAT(ignored.error().to_string(), HasSubstr("took stop and is in running"));
  for (const std::uint32_t bits : {5, 7}) {
    driver.state = bits;
    EXPECT_FALSE(migration->state());
    EXPECT_FALSE(migration->set_state(stop));
  }
}

TEST(V1Migration, OneReadIsOneChunkAndTheDeviceLearnsAtOnceThatItWasTaken) {
  V1Driver driver;
  const auto migration = opened(driver);
  ASSERT_TRUE(migration->set_state(pre_copy));
  EXPECT_EQ(read_one(*migration, Kind::nothing_now), Bytes());
  driver.outgoing = {chunk_of(700, 1), chunk_of(0x4000, 2)};
  EXPECT_EQ((*migration->precopy_info())->initial_bytes, 0u);
  EXPECT_EQ((*migration->precopy_info())->dirty_bytes, 700u + 0x4000u);
  EXPECT_EQ(*migration->stop_copy_size(), std::nullopt);
  driver.registers_read.clear();
  EXPECT_EQ(read_one(*migration, Kind::data), chunk_of(700, 1));
  EXPECT_EQ(driver.outgoing.size(), 1u);
  EXPECT_EQ(read_one(*migration, Kind::nothing_now), chunk_of(0x4000, 2));
  EXPECT_THAT(driver.registers_read, ElementsAre(8, 16, 24, 8, 16, 24, 8));
  driver.outgoing = {chunk_of(9, 3), chunk_of(1, 4)};
  ASSERT_TRUE(migration->set_state(stop_copy));
  EXPECT_EQ(*migration->stop_copy_size(), 10u);
  EXPECT_FALSE(migration->precopy_info());
  EXPECT_EQ(read_one(*migration, Kind::data), chunk_of(9, 3));
  EXPECT_EQ(read_one(*migration, Kind::end), chunk_of(1, 4));
  EXPECT_EQ(read_one(*migration, Kind::end), Bytes()) << "the end stays the end";
}

TEST(V1Migration, DataThatIsLateIsNoEndAndNoHang) {
  V1Driver driver;
  const auto migration = opened(driver);
  for (const auto state : {pre_copy, stop_copy}) {
    ASSERT_TRUE(migration->set_state(state));
    driver.outgoing = {chunk_of(5, 1)};
    driver.lies = {{v1::kDataSize, 0}, {v1::kPendingBytes, 1000}};
    for (int i = 0; i < 100; ++i)
      ASSERT_EQ(read_one(*migration, Kind::nothing_now), Bytes());
    driver.lies.clear();
    driver.outgoing.clear();
    EXPECT_EQ(read_one(*migration, state == stop_copy ? Kind::end : Kind::nothing_now), Bytes());
  }
}

TEST(V1Migration, ChunksThatBeginMappedAndEndTrappedAreCopiedPieceByPiece) {
  const std::vector<std::vector<RegionArea>> layouts = {
      {},                                    // all trapped
      {{0x1000, 0x4000}},                    // all mapped
      {{0x2000, 0x1000}, {0x4000, 0x1000}},  // trapped, mapped, trapped, mapped
      {{0x1000, 0x1000}},
      {{0x4000, 0x1000}, {0x1000, 0x1000}},  // not in order
      {{0, 0x5000}},                         // the registers as well: nothing is mapped then
      {{0x1800, 0x800}, {0x2000, 0x1000}},   // no whole pages: the first is not mapped
  };
  const std::uint64_t trapped[] = {0x4000, 0, 0x2000, 0x3000, 0x2000, 0x4000, 0x3000};
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    SCOPED_TRACE(i);
    V1Driver driver;
    if (!layouts[i].empty()) driver.map(layouts[i]);
    const auto migration = opened(driver);
    ASSERT_TRUE(migration->set_state(stop_copy));
    driver.outgoing = {chunk_of(0x4000, 7)};
    EXPECT_EQ(read_one(*migration, Kind::end), chunk_of(0x4000, 7));
    EXPECT_EQ(driver.trapped_bytes, trapped[i]);
    ASSERT_TRUE(migration->set_state(running));
    ASSERT_TRUE(migration->set_state(resuming));
    ASSERT_TRUE(migration->write(chunk_of(0x4000, 8)));
    ASSERT_TRUE(migration->write(chunk_of(1, 9)));
    EXPECT_THAT(driver.incoming, ElementsAre(chunk_of(0x4000, 8), chunk_of(1, 9)));
  }
}

TEST(V1Migration, WhereAndHowLongAChunkIsMustFitTheDataSection) {
  struct {
    std::uint64_t offset, size;
  } const wrong[] = {
      {0, 1},           {31, 1},        {0x1000, 0x4001}, {0x4fff, 2},     {0x5000, 1},
      {0x5001, 5},      {~0ULL, 1},     {~0ULL - 3, 8},   {0x1000, ~0ULL}, {0x1000, ~0ULL - 0x1000},
      {0x1001, 0x1000}, {0x20, 0x5000},
  };
  for (const auto& [offset, size] : wrong) {
    V1Driver driver;
    driver.map({{0x1000, 0x4000}});
    const auto migration = opened(driver);
    driver.outgoing = {chunk_of(64, 1)};
    driver.lies = {{v1::kDataOffset, offset}, {v1::kDataSize, size}};
    ASSERT_TRUE(migration->set_state(stop_copy));
    EXPECT_THAT(read_error(*migration), HasSubstr("device `old0` says that")) << offset << " " << size;
    ASSERT_TRUE(migration->set_state(running));
    ASSERT_TRUE(migration->set_state(resuming));
    if (offset != 0x1000 && offset != 0x20) {
      const auto written = migration->write(chunk_of(2, 1));
      ASSERT_FALSE(written) << offset;
      EXPECT_THAT(written.error().to_string(), HasSubstr("device `old0` says that"));
      EXPECT_TRUE(driver.incoming.empty());
    }
  }
}

TEST(V1Migration, AFileThatIsCutShortIsAnErrorAndNoSignal) {
  V1Driver driver;
  driver.map({{0x1000, 0x4000}});
  const auto migration = opened(driver);
  ASSERT_TRUE(migration->set_state(stop_copy));
  driver.outgoing = {chunk_of(0, 1)};
  driver.lies = {{v1::kDataSize, 0x4000}, {v1::kPendingBytes, 0x4000}};
  driver.cut_file();
  EXPECT_THAT(read_error(*migration), HasSubstr("has taken away its migration data"));
}

TEST(V1Migration, ReadsAndWritesOutOfPlaceAreRefusedHere) {
  V1Driver driver;
  const auto migration = opened(driver);
  EXPECT_THAT(read_error(*migration), HasSubstr("cannot be read in running"));
  EXPECT_FALSE(migration->write(chunk_of(1, 1)));
  ASSERT_TRUE(migration->set_state(stop_copy));
  Bytes small(migration->preferred_chunk() - 1);
  EXPECT_FALSE(migration->read(small));
  ASSERT_TRUE(migration->set_state(running));
  ASSERT_TRUE(migration->set_state(resuming));
  const auto large = migration->write(Bytes(migration->preferred_chunk() + 1));
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code(), Errc::mismatch);
  EXPECT_TRUE(migration->write({}));
  EXPECT_TRUE(driver.incoming.empty());
}

TEST(V1Migration, EveryRegisterThatCannotBeReadIsAnErrorThatNamesIt) {
  for (const auto& [offset, name] : {std::pair{v1::kPendingBytes, "pending_bytes"},
                                     {v1::kDataOffset, "data_offset"},
                                     {v1::kDataSize, "data_size"}}) {
    V1Driver driver;
    const auto migration = opened(driver);
    ASSERT_TRUE(migration->set_state(stop_copy));
    driver.outgoing = {chunk_of(10, 1)};
    driver.fail_register = offset;
    EXPECT_THAT(read_error(*migration), HasSubstr(name));
  }
}

}  // namespace
}  // namespace handover::vfio
