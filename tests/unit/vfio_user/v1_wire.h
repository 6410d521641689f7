#pragma once

#include <memory>
#include <utility>

#include "handover/base/byte_order.h"
#include "handover/vfio_abi/v1_region.h"
#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {

namespace v1 = vfio::v1;
using Bytes = std::vector<std::byte>;

inline constexpr std::uint32_t kRegion = 9;
inline constexpr std::uint64_t kData = 0x1000;
inline constexpr std::uint32_t kDataSize = 0x4000;
inline constexpr std::size_t kRecord = ToyDevice::kStateSize + 8;

/// A toy device served by protocol v1, and a client that says what a test wants.
class ServerV1 : public ServedToy {
 protected:
  void serve_v1(bool mappable = true, std::uint64_t features = 7) {
    ServerOptions options;
    options.migration = MigrationInterface::v1;
    options.v1_data_size = kDataSize;
    options.v1_data_mappable = mappable;
    serve(features, options);
    wire_ = std::make_unique<WireClient>(client());
  }
  void TearDown() override {
    wire_.reset();
    ServedToy::TearDown();
  }
  /// A read's bytes, or its errno.
  std::pair<int, Bytes> read(std::uint64_t offset, std::uint32_t size) {
    const auto reply = wire_->call(protocol::Command::region_read,
                                   MessageBuilder().add(protocol::RegionAccessHead{offset, kRegion, size}));
    if (reply.header.failed()) return {static_cast<int>(reply.header.error), {}};
    const auto access = protocol::RegionAccess::decode(reply.payload);
    return {0, {access->data.begin(), access->data.end()}};
  }
  int write(std::uint64_t offset, std::span<const std::byte> data) {
    const protocol::RegionAccessHead head{offset, kRegion, static_cast<std::uint32_t>(data.size())};
    return wire_->call_errno(protocol::Command::region_write, MessageBuilder().add(head).data(data));
  }
  std::uint32_t state() { return load_le<std::uint32_t>(read(v1::kDeviceState, 4).second.data()); }
  int set_state(std::uint32_t value) {
    std::byte bytes[4];
    store_le(bytes, value);
    return write(v1::kDeviceState, bytes);
  }
  /// A register's value; its errno, negative, if it was refused.
  std::int64_t get(std::uint64_t offset) {
    const auto [error, bytes] = read(offset, 8);
    return error ? -error : static_cast<std::int64_t>(load_le<std::uint64_t>(bytes.data()));
  }
  std::int64_t pending() { return get(v1::kPendingBytes); }
  std::int64_t data_offset() { return get(v1::kDataOffset); }
  std::int64_t data_size() { return get(v1::kDataSize); }
  int set_data_size(std::uint64_t value) {
    std::byte bytes[8];
    store_le(bytes, value);
    return write(v1::kDataSize, bytes);
  }
  /// One whole turn; the chunk.
  Bytes take_chunk() {
    EXPECT_GT(pending(), 0);
    EXPECT_EQ(data_offset(), static_cast<std::int64_t>(kData));
    return read(kData, static_cast<std::uint32_t>(data_size())).second;
  }
  /// Until nothing is pending.
  Bytes take_all() {
    Bytes stream;
    for (pending(); pending() > 0;) {
      const auto chunk = take_chunk();
      stream.insert(stream.end(), chunk.begin(), chunk.end());
    }
    return stream;
  }
  int give(std::span<const std::byte> chunk) {
    if (const auto offset = data_offset(); offset < 0) return static_cast<int>(-offset);
    if (const int error = write(kData, chunk)) return error;
    return set_data_size(chunk.size());
  }
  int reset() { return wire_->call_errno(protocol::Command::device_reset); }

  std::unique_ptr<WireClient> wire_;
};

}  // namespace handover::vfio_user
