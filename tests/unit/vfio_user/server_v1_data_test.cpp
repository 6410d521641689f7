// The server's migration region of protocol v1, message by message: the data.

#include "handover/base/mapping.h"
#include "unit/vfio_user/v1_wire.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;
using vfio::DeviceState;

TEST_F(ServerV1, SavingGoesByPendingOffsetSizeDataAndInNoOtherOrder) {
  serve_v1();
  const auto nothing_saved = [&] {
    EXPECT_EQ(pending(), 0) << "nothing is being saved";
    EXPECT_EQ(data_offset(), -EINVAL);
    EXPECT_EQ(data_size(), -EINVAL);
    EXPECT_EQ(read(kData, 1).first, EINVAL);
  };
  nothing_saved();
  ASSERT_EQ(set_state(v1::kPreCopy), 0);
  EXPECT_EQ(data_offset(), -EINVAL) << "before pending_bytes";
  EXPECT_EQ(data_size(), -EINVAL);
  EXPECT_EQ(pending(), static_cast<std::int64_t>(kRecord));
  EXPECT_EQ(pending(), static_cast<std::int64_t>(kRecord)) << "no side effect";
  EXPECT_EQ(data_size(), -EINVAL) << "before data_offset";
  EXPECT_EQ(read(kData, 1).first, EINVAL);
  EXPECT_EQ(data_offset(), static_cast<std::int64_t>(kData));
  EXPECT_EQ(read(kData, 1).first, EINVAL) << "before data_size";
  EXPECT_EQ(write(kData, Bytes(1)), EINVAL) << "not while saving";
  EXPECT_EQ(set_data_size(1), EINVAL);
  EXPECT_EQ(data_size(), static_cast<std::int64_t>(kDataSize));
  const auto whole = read(kData, kDataSize);
  ASSERT_EQ(whole.first, 0);
  EXPECT_EQ(data_offset(), static_cast<std::int64_t>(kData));
  EXPECT_EQ(data_size(), static_cast<std::int64_t>(kDataSize)) << "the same chunk";
  EXPECT_EQ(read(kData, kDataSize), whole);
  EXPECT_EQ(read(kData + 5, 3).second, Bytes(whole.second.begin() + 5, whole.second.begin() + 8));
  EXPECT_EQ(pending(), static_cast<std::int64_t>(kRecord - kDataSize)) << "the chunk was taken";
  EXPECT_EQ(read(kData, 1).first, EINVAL);
  EXPECT_EQ(data_size(), -EINVAL);
  ASSERT_EQ(set_state(v1::kRunning), 0);
  nothing_saved();
}

TEST_F(ServerV1, AChunkThatWasNotTakenIsNotLost) {
  serve_v1();
  ASSERT_EQ(set_state(v1::kPreCopy), 0);
  EXPECT_EQ(pending(), static_cast<std::int64_t>(kRecord));
  EXPECT_EQ(data_offset(), static_cast<std::int64_t>(kData));
  EXPECT_EQ(pending(), static_cast<std::int64_t>(kRecord)) << "its size was not even asked for";
  EXPECT_EQ(data_offset(), static_cast<std::int64_t>(kData));
  ASSERT_EQ(set_state(v1::kSaving), 0);
  Bytes stream = take_all();
  NativeWriter record;
  record.u64(ToyDevice::kStateSize);
  record.bytes(toy_->state());
  Bytes expected(record.view().begin(), record.view().end());
  expected.insert(expected.end(), record.view().begin(), record.view().end());
  EXPECT_EQ(stream, expected) << "all of pre-copy, then all of stop-copy";
}

TEST_F(ServerV1, ReadsBeyondTheChunkAreRefused) {
  serve_v1();
  ASSERT_EQ(set_state(v1::kSaving), 0);
  Bytes last;
  while (pending() > 0) {
    last = take_chunk();
    const auto size = static_cast<std::uint32_t>(last.size());
    EXPECT_EQ(read(kData, size + 1).first, EINVAL);
    EXPECT_EQ(read(kData + size, 1).first, EINVAL);
  }
  EXPECT_EQ(last.size(), kRecord % kDataSize);
  EXPECT_EQ(data_offset(), -EINVAL) << "that was all";
}

// The estimate may be 0 or missing; the end is what the device says.
TEST_F(ServerV1, PendingIsNeverZeroBeforeTheEndWhateverTheEstimate) {
  serve_v1();
  for (const bool estimates : {true, false}) {
    toy_->set_estimates(estimates, 0);
    ASSERT_EQ(set_state(v1::kSaving), 0);
    EXPECT_EQ(pending(), estimates ? 1 : static_cast<std::int64_t>(kDataSize));
    EXPECT_EQ(take_all().size(), kRecord);
    EXPECT_EQ(pending(), 0);
    ASSERT_EQ(set_state(v1::kRunning), 0);
    // In pre-copy a device that cannot say how much there is may have something at any time.
    ASSERT_EQ(set_state(v1::kPreCopy), 0);
    EXPECT_EQ(pending(), static_cast<std::int64_t>(estimates ? kRecord : kDataSize));
    if (!estimates) {
      for (std::size_t got = 0; got < kRecord;)
        got += take_chunk().size();
      EXPECT_EQ(take_chunk().size(), 0u) << "nothing now";
    }
    ASSERT_EQ(set_state(v1::kRunning), 0);
  }
}

TEST_F(ServerV1, AStateThatFillsItsLastChunkEndsWithAnEmptyOne) {
  serve_v1();
  toy_->set_state(Bytes(2 * kDataSize - 8));
  ASSERT_EQ(set_state(v1::kSaving), 0);
  EXPECT_EQ(take_chunk().size(), kDataSize);
  EXPECT_EQ(take_chunk().size(), kDataSize);
  EXPECT_EQ(take_chunk().size(), 0u);
  EXPECT_EQ(pending(), 0);
}

TEST_F(ServerV1, LoadingGoesByOffsetDataSizeAndInNoOtherOrder) {
  serve_v1();
  EXPECT_EQ(set_data_size(1), EINVAL);
  ASSERT_EQ(set_state(v1::kResuming), 0);
  EXPECT_EQ(pending(), 0);
  EXPECT_EQ(write(kData, Bytes(1)), EINVAL) << "before data_offset";
  EXPECT_EQ(set_data_size(1), EINVAL) << "before data_offset";
  EXPECT_EQ(data_offset(), static_cast<std::int64_t>(kData));
  EXPECT_EQ(data_size(), -EINVAL) << "only written when resuming";
  EXPECT_EQ(read(kData, 1).first, EINVAL);
  EXPECT_EQ(set_data_size(kDataSize + 1), EINVAL);
  EXPECT_EQ(set_data_size(~0ULL), EINVAL);
  NativeWriter record;
  record.u64(3);
  record.text("abc");
  EXPECT_EQ(write(kData, record.view().first(5)), 0);
  EXPECT_EQ(write(kData + 5, record.view().subspan(5)), 0) << "in pieces";
  EXPECT_EQ(set_data_size(11), 0);
  EXPECT_EQ(set_data_size(11), EINVAL) << "each chunk asks where it goes";
  EXPECT_EQ(data_offset(), static_cast<std::int64_t>(kData));
  EXPECT_EQ(set_data_size(0), 0) << "an empty chunk is one, too";
  ASSERT_EQ(set_state(v1::kRunning), 0);
  EXPECT_EQ(toy_->state().size(), 3u);
}

TEST_F(ServerV1, TheMappedDataIsWhatMessagesSee) {
  serve_v1();
  RegionInfoHead request;
  request.index = kRegion;
  request.argsz = 200;
  const auto info = wire_->call(Command::device_get_region_info, MessageBuilder().add(request));
  ASSERT_EQ(info.fds.size(), 1u);
  auto mapped = Mapping::shared(info.fds[0].get(), kData, kDataSize, PROT_READ | PROT_WRITE);
  ASSERT_TRUE(mapped);
  ASSERT_EQ(set_state(v1::kSaving), 0);
  const auto chunk = take_chunk();
  EXPECT_TRUE(std::ranges::equal(chunk, mapped->span().first(chunk.size())));
  ASSERT_EQ(set_state(v1::kRunning), 0);
  ASSERT_EQ(set_state(v1::kResuming), 0);
  EXPECT_EQ(data_offset(), static_cast<std::int64_t>(kData));
  store_le<std::uint64_t>(mapped->data(), 1);
  mapped->data()[8] = std::byte{0x42};
  EXPECT_EQ(set_data_size(9), 0);
  ASSERT_EQ(set_state(v1::kStop), 0);
  EXPECT_EQ(toy_->state(), Bytes(1, std::byte{0x42}));
}

TEST_F(ServerV1, AClientsMappingShowsNothingOfTheNextClient) {
  serve_v1();
  RegionInfoHead request;
  request.index = kRegion;
  request.argsz = 200;
  const auto info = wire_->call(Command::device_get_region_info, MessageBuilder().add(request));
  auto kept = Mapping::shared(info.fds.at(0).get(), kData, kDataSize, PROT_READ | PROT_WRITE);
  ASSERT_TRUE(kept);
  wire_.reset();
  ASSERT_TRUE(idle());
  wire_ = std::make_unique<WireClient>(client());
  ASSERT_EQ(set_state(v1::kSaving), 0);
  EXPECT_FALSE(take_chunk().empty());
  EXPECT_TRUE(std::ranges::all_of(kept->span(), [](std::byte byte) { return byte == std::byte{0}; }));
}

}  // namespace
}  // namespace handover::vfio_user
