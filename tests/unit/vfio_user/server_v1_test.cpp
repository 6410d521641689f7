// The server's migration region of protocol v1, message by message: what it is, and its states.

#include <set>

#include "unit/vfio_user/v1_wire.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;
using vfio::DeviceState;

TEST_F(ServerV1, RegionNineHasTheTypeAndItsDataCanBeMapped) {
  for (const bool mappable : {true, false}) {
    serve_v1(mappable);
    const auto info = wire_->call(Command::device_get_info, MessageBuilder().add(DeviceInfo{}));
    EXPECT_EQ(decode<DeviceInfo>(info.payload)->num_regions, 10u);
    RegionInfoHead request;
    request.index = kRegion;
    request.argsz = 32;
    const auto first = wire_->call(Command::device_get_region_info, MessageBuilder().add(request));
    EXPECT_TRUE(first.fds.empty());
    EXPECT_EQ(decode<RegionInfoHead>(first.payload)->argsz, mappable ? 80u : 48u);
    request.argsz = 200;
    const auto second = wire_->call(Command::device_get_region_info, MessageBuilder().add(request));
    const auto region = RegionInfoReply::decode(second.payload);
    ASSERT_TRUE(region);
    EXPECT_EQ(region->type, v1::kRegionType);
    EXPECT_EQ(region->head.size, kData + kDataSize);
    ASSERT_EQ(second.fds.size(), mappable ? 1u : 0u);
    EXPECT_EQ(region->sparse.has_value(), mappable);
    if (mappable) {
      ASSERT_EQ(region->sparse->size(), 1u);
      EXPECT_EQ(region->sparse->at(0).offset, kData);
      EXPECT_EQ(region->sparse->at(0).size, kDataSize);
      EXPECT_NE(::ftruncate(second.fds[0].get(), 0), 0) << "nobody can take the memory away";
    }
    request.index = kRegion + 1;
    EXPECT_EQ(wire_->call_errno(Command::device_get_region_info, MessageBuilder().add(request)), EINVAL);
    TearDown();
  }
}

TEST_F(ServerV1, NothingOfV2IsThere) {
  serve_v1();
  for (const auto feature :
       {kFeatureMigration, kFeatureDeviceState, kFeatureMigDataSize, kFeatureMigPrecopyInfo})
    EXPECT_EQ(wire_->call_errno(Command::device_feature,
                                MessageBuilder().add(FeatureHead{8, feature | kFeatureProbe})),
              ENOTTY);
  ASSERT_EQ(set_state(v1::kSaving), 0);
  EXPECT_EQ(wire_->call_errno(Command::mig_data_read, MessageBuilder().add(MigDataHead{16, 8})), EINVAL);
  ASSERT_EQ(set_state(v1::kRunning), 0);
  ASSERT_EQ(set_state(v1::kResuming), 0);
  EXPECT_EQ(
      wire_->call_errno(Command::mig_data_write, MessageBuilder().add(MigDataHead{9, 1}).data(Bytes(1))),
      EINVAL);
}

TEST_F(ServerV1, EveryPairOfStatesIsWalkedOrRefusedAndTheDeviceReallyChanges) {
  serve_v1();
  const std::set<std::pair<std::uint32_t, std::uint32_t>> arcs = {{1, 0}, {1, 2}, {1, 3}, {1, 4}, {0, 1},
                                                                  {0, 2}, {0, 4}, {3, 2}, {3, 1}, {3, 0},
                                                                  {2, 0}, {2, 1}, {4, 1}, {4, 0}};
  for (const std::uint32_t from : {0, 1, 2, 3, 4})
    for (std::uint32_t to = 0; to < 8; ++to) {
      ASSERT_EQ(reset(), 0);
      ASSERT_EQ(state(), v1::kRunning);
      ASSERT_EQ(set_state(from), 0);
      if (from == v1::kResuming) {
        ASSERT_EQ(give(Bytes(8)), 0);
      }
      const bool allowed = from == to || arcs.contains({from, to});
      EXPECT_EQ(set_state(to), allowed ? 0 : EINVAL) << from << " to " << to;
      const auto now = allowed ? to : from;
      EXPECT_EQ(state(), now);
      EXPECT_EQ(server_->device_state(), *v1::state_of(now)) << from << " to " << to;
    }
}

TEST_F(ServerV1, ReservedBitsMeanNothingAndAreRefused) {
  serve_v1();
  for (const std::uint32_t value : {8u, 9u, 0x8000'0001u, 0xffff'fff8u})
    EXPECT_EQ(set_state(value), EINVAL) << value;
  EXPECT_EQ(read(v1::kReserved, 4), (std::pair{0, Bytes(4)}));
  EXPECT_EQ(write(v1::kReserved, Bytes(4, std::byte{0xff})), 0);
  EXPECT_EQ(read(v1::kReserved, 4), (std::pair{0, Bytes(4)}));
  EXPECT_EQ(state(), v1::kRunning);
}

TEST_F(ServerV1, RegistersHaveOneWidthAndOnePlaceEach) {
  serve_v1();
  ASSERT_EQ(set_state(v1::kSaving), 0);
  for (std::uint64_t offset = 0; offset < 40; ++offset)
    for (const std::uint32_t size : {1u, 2u, 3u, 4u, 8u, 16u, 32u}) {
      const bool right = (size == 4 && (offset == 0 || offset == 4)) ||
                         (size == 8 && (offset == 8 || offset == 16 || offset == 24));
      if (right) continue;
      EXPECT_EQ(read(offset, size).first, EINVAL) << offset << "+" << size;
      EXPECT_EQ(write(offset, Bytes(size)), EINVAL) << offset << "+" << size;
    }
  EXPECT_EQ(write(v1::kPendingBytes, Bytes(8)), EINVAL) << "read only";
  EXPECT_EQ(write(v1::kDataOffset, Bytes(8)), EINVAL) << "read only";
  EXPECT_EQ(read(kData - 8, 16).first, EINVAL) << "from the registers' page into the data";
  EXPECT_EQ(read(kData + kDataSize - 1, 2).first, EINVAL) << "beyond the region";
  EXPECT_EQ(read(~0ULL - 3, 8).first, EINVAL);
  EXPECT_EQ(state(), v1::kSaving);
  NativeWriter multi;
  multi.u64(1);
  encode(multi, MultiWriteHead{v1::kDeviceState, kRegion, 4});
  multi.u64(v1::kRunning);
  const auto reply = wire_->call(Command::region_write_multi, MessageBuilder().data(multi.view()));
  EXPECT_EQ(decode<WrittenCount>(reply.payload)->count, 0u) << "a state cannot be one of many writes";
  EXPECT_EQ(state(), v1::kSaving);
}

TEST_F(ServerV1, AWriteOfTheStateIsAnsweredWhenTheDeviceHasChanged) {
  serve_v1();
  toy_->hold();
  std::byte bytes[4];
  store_le(bytes, v1::kStop);
  wire_->send(Command::region_write, MessageBuilder().add(RegionAccessHead{0, kRegion, 4}).data(bytes));
  ASSERT_TRUE(eventually([&] { return toy_->holds_something(); }));
  EXPECT_EQ(server_->device_state(), DeviceState::running);
  const auto later = wire_->send(Command::device_get_info, MessageBuilder().add(DeviceInfo{}));
  toy_->release();
  const auto first = wire_->receive(), second = wire_->receive();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->command(), Command::region_write);
  EXPECT_FALSE(first->header.failed());
  EXPECT_EQ(second->header.id, later) << "it waited for its turn";
  EXPECT_EQ(server_->device_state(), DeviceState::stop);
}

TEST_F(ServerV1, ALoadThatFailsIsAnErrorUntilTheReset) {
  serve_v1();
  ASSERT_EQ(set_state(v1::kResuming), 0);
  ASSERT_EQ(give(Bytes(3)), 0);
  EXPECT_NE(set_state(v1::kRunning), 0);
  EXPECT_EQ(state(), v1::kError);
  for (std::uint32_t to = 0; to < 8; ++to)
    EXPECT_EQ(set_state(to), EINVAL) << to;
  EXPECT_EQ(pending(), 0);
  EXPECT_EQ(data_offset(), -EINVAL);
  EXPECT_EQ(data_size(), -EINVAL);
  ASSERT_EQ(reset(), 0);
  EXPECT_EQ(state(), v1::kRunning);
  EXPECT_EQ(set_state(v1::kPreCopy), 0);
}

TEST_F(ServerV1, AStateThatCannotBeReachedLeavesOneThatV1Has) {
  serve_v1();
  // Stopping fails in RUNNING_P2P, which v1 does not know: the device runs again.
  toy_->fail_transition_to(DeviceState::stop, 0xeef);
  EXPECT_EQ(set_state(v1::kStop), 0xeef);
  EXPECT_EQ(state(), v1::kRunning);
  EXPECT_EQ(server_->device_state(), DeviceState::running);
  toy_->fail_transition_to(DeviceState::stop_copy, EBUSY);
  ASSERT_EQ(set_state(v1::kPreCopy), 0);
  EXPECT_EQ(set_state(v1::kSaving), EBUSY);
  EXPECT_EQ(state(), v1::kPreCopy) << "and pre-copy goes on";
  EXPECT_EQ(set_state(v1::kRunning), 0);
  toy_->fail_transition_to(DeviceState::running, EIO);
  ASSERT_EQ(set_state(v1::kStop), 0);
  EXPECT_EQ(set_state(v1::kRunning), EIO);
  EXPECT_EQ(state(), v1::kStop);
  toy_->fail_no_transition();
  EXPECT_EQ(set_state(v1::kRunning), 0);
}

TEST_F(ServerV1, ADeviceWithoutPreCopyHasAnEmptyOne) {
  serve_v1(true, vfio::kMigrationStopCopy);
  (void)toy_->take_arcs();
  ASSERT_EQ(set_state(v1::kPreCopy), 0);
  EXPECT_EQ(state(), v1::kPreCopy);
  EXPECT_TRUE(toy_->take_arcs().empty()) << "it runs as it did";
  EXPECT_EQ(pending(), 0);
  EXPECT_EQ(data_offset(), -EINVAL);
  toy_->fail_transition_to(DeviceState::stop, EIO);
  EXPECT_EQ(set_state(v1::kSaving), EIO);
  EXPECT_EQ(state(), v1::kPreCopy);
  toy_->fail_no_transition();
  ASSERT_EQ(set_state(v1::kSaving), 0);
  EXPECT_EQ(take_all().size(), kRecord);
  ASSERT_EQ(set_state(v1::kRunning), 0);
  ASSERT_EQ(set_state(v1::kPreCopy), 0);
  ASSERT_EQ(set_state(v1::kRunning), 0);
  EXPECT_EQ(state(), v1::kRunning);
  ASSERT_EQ(set_state(v1::kPreCopy), 0);
  ASSERT_EQ(set_state(v1::kStop), 0);
  EXPECT_EQ(state(), v1::kStop);
  ASSERT_EQ(reset(), 0);
  ASSERT_EQ(set_state(v1::kPreCopy), 0);
  ASSERT_EQ(reset(), 0);
  EXPECT_EQ(state(), v1::kRunning) << "a reset ends it, too";
}

TEST_F(ServerV1, EveryStateIsLeftInOrderWhenTheClientGoes) {
  serve_v1();
  struct {
    std::uint32_t left, found;
  } const cases[] = {{0, 0}, {1, 1}, {2, 0}, {3, 1}, {4, 1 /* by reset */}};
  for (const auto& [left, found] : cases) {
    ASSERT_EQ(set_state(v1::kRunning), 0);
    ASSERT_EQ(set_state(left), 0);
    if (left & v1::kSaving) (void)take_chunk();
    wire_.reset();
    ASSERT_TRUE(idle());
    wire_ = std::make_unique<WireClient>(client());
    EXPECT_EQ(state(), found) << left;
  }
}

}  // namespace
}  // namespace handover::vfio_user
