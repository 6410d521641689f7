#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "handover/base/byte_order.h"
#include "handover/vfio/v1_migration.h"
#include "handover/vfio_abi/v1_region.h"
#include "unit/vfio_user/toy_device.h"

namespace handover::vfio {

using ArcSet = std::set<std::pair<std::uint32_t, std::uint32_t>>;

/// What the uAPI demands of every v1 driver.
inline const ArcSet kRequiredArcs = {{1, 0}, {1, 2}, {2, 0}, {1, 3}, {3, 2},
                                     {1, 4}, {4, 1}, {3, 1}, {2, 1}, {0, 1}};
/// What libvfio-user's server takes.
inline const ArcSet kLibvfioUserArcs = {{0, 1}, {1, 0}, {1, 2}, {1, 3}, {1, 4},
                                        {2, 0}, {2, 1}, {3, 0}, {3, 2}, {4, 1}};
inline const ArcSet kEveryArc = [] {
  ArcSet arcs;
  for (const std::uint32_t from : {0, 1, 2, 3, 4})
    for (const std::uint32_t to : {0, 1, 2, 3, 4})
      if (from != to) arcs.insert({from, to});
  return arcs;
}();

/// A device whose migration region behaves as a strict v1 driver's, and lies where a test says so.
class V1Driver final : public Device {
 public:
  static constexpr std::uint32_t kRegion = 10;
  using Bytes = std::vector<std::byte>;

  explicit V1Driver(ArcSet arcs = kEveryArc, std::uint64_t size = 0x5000) : arcs_(std::move(arcs)) {
    info_ = {kDeviceFlagPci, kRegion + 1, 0};
    for (std::uint32_t i = 0; i <= kRegion; ++i)
      regions_.push_back({.index = i, .flags = 3, .size = 0x1000, .areas = {}});
    regions_[9].type = RegionType{1, 1};  // graphics
    regions_[kRegion].type = v1::kRegionType;
    resize(size);
  }

  void resize(std::uint64_t size) {
    regions_[kRegion].size = size;
    memory_.assign(std::min<std::uint64_t>(size, 1 << 20), std::byte{0});
  }
  /// Lets these areas be mapped.
  void map(std::vector<RegionArea> areas) {
    regions_[kRegion].flags |= kRegionMmap;
    regions_[kRegion].areas = std::move(areas);
    file_ = vfio_user::make_memfd(regions_[kRegion].size);
    shared_ = std::move(*Mapping::shared(file_.get(), 0, regions_[kRegion].size, PROT_READ | PROT_WRITE));
  }
  void cut_file() { ASSERT_EQ(::ftruncate(file_.get(), 0), 0); }
  RegionInfo& migration_region() { return regions_[kRegion]; }
  Result<std::unique_ptr<V1Migration>> open() {
    const auto index = V1Migration::find_region(*this);
    EXPECT_EQ(index, kRegion);
    return V1Migration::create(*this, *index);
  }

  // What the device has to say, and what it was told.
  std::uint32_t state = v1::kRunning;
  std::deque<Bytes> outgoing;
  std::vector<Bytes> incoming;
  std::uint64_t data_offset = 0x1000;
  std::vector<std::uint32_t> states_written;
  std::vector<std::uint64_t> registers_read;
  std::uint64_t trapped_bytes = 0;
  /// Answers instead of the truth, by the register's offset.
  std::map<std::uint64_t, std::uint64_t> lies;
  /// Says what a write of device_state does; empty: as the arcs say.
  std::function<Status(std::uint32_t)> on_state;
  std::uint64_t fail_register = ~0ULL;

  const std::string& id() const override { return id_; }
  const DeviceInfo& info() const override { return info_; }
  const RegionInfo& region(std::uint32_t index) const override { return regions_.at(index); }
  const IrqInfo& irq(std::uint32_t) const override { std::abort(); }

  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    EXPECT_EQ(index, kRegion);
    if (offset >= v1::kRegisterBlock) {
      trapped_bytes += to.size();
      copy_out(offset, to);
      return {};
    }
    EXPECT_EQ(to.size(), offset < 8 ? 4u : 8u) << "register " << offset;
    registers_read.push_back(offset);
    if (offset == fail_register) return refused(EIO);
    if (offset == v1::kDeviceState) {
      store_int<std::uint32_t, std::endian::native>(to.data(), state);
      return {};
    }
    std::uint64_t value = 0;
    if (offset == v1::kPendingBytes) {
      if (sized_ && !outgoing.empty()) outgoing.pop_front();
      placed_ = sized_ = false;
      for (const auto& chunk : outgoing)
        value += chunk.size();
    } else if (offset == v1::kDataOffset) {
      placed_ = true;
      value = data_offset;
      if (!outgoing.empty() && range_fits(data_offset, outgoing.front().size(), memory_.size()))
        copy_in(data_offset, outgoing.front());
    } else {
      if (!placed_) return refused(EINVAL);
      sized_ = true;
      value = outgoing.empty() ? 0 : outgoing.front().size();
    }
    if (const auto lie = lies.find(offset); lie != lies.end()) value = lie->second;
    store_int<std::uint64_t, std::endian::native>(to.data(), value);
    return {};
  }

  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    EXPECT_EQ(index, kRegion);
    if (offset >= v1::kRegisterBlock) {
      trapped_bytes += from.size();
      copy_in(offset, from);
      return {};
    }
    if (offset == v1::kDataSize) {
      EXPECT_EQ(from.size(), 8u);
      Bytes chunk(load_int<std::uint64_t, std::endian::native>(from.data()));
      if (!placed_ || state % 8 != v1::kResuming) return refused(EINVAL);
      copy_out(data_offset, chunk);
      incoming.push_back(std::move(chunk));
      placed_ = false;
      return {};
    }
    EXPECT_EQ(offset, v1::kDeviceState);
    EXPECT_EQ(from.size(), 4u);
    const auto value = load_int<std::uint32_t, std::endian::native>(from.data());
    EXPECT_EQ(value & ~7u, state & ~7u) << "reserved bits";
    states_written.push_back(value & 7);
    if (on_state) return on_state(value);
    if (!arcs_.contains({state & 7, value & 7})) return refused(EINVAL);
    state = value;
    placed_ = sized_ = false;
    return {};
  }

  Result<Mapping> map_area(std::uint32_t index, const RegionArea& area) override {
    EXPECT_EQ(index, kRegion);
    return Mapping::shared(file_.get(), area.offset, area.size, PROT_READ | PROT_WRITE);
  }
  Status set_irq_eventfds(std::uint32_t, std::span<const int>) override { return {}; }
  Status reset() override { return {}; }
  Status dma_map(const DmaMapping&) override { return {}; }
  Status dma_unmap(const IovaRange&) override { return {}; }
  MigrationProtocol* migration() override { return nullptr; }
  std::string migration_blocker() const override { return {}; }
  DmaLog* dma_log() override { return nullptr; }
  bool lost() const override { return false; }
  void on_lost(std::function<void(std::string)>) override {}

  static Status refused(int error) {
    return std::unexpected(Error(Errc::device, "the driver refuses", error));
  }

 private:
  std::byte* at(std::uint64_t offset) { return (shared_ ? shared_.data() : memory_.data()) + offset; }
  void copy_in(std::uint64_t offset, std::span<const std::byte> from) {
    std::copy(from.begin(), from.end(), at(offset));
  }
  void copy_out(std::uint64_t offset, std::span<std::byte> to) {
    std::copy_n(at(offset), to.size(), to.begin());
  }

  const ArcSet arcs_;
  const std::string id_ = "old0";
  DeviceInfo info_;
  std::vector<RegionInfo> regions_;
  Bytes memory_;
  UniqueFd file_;
  Mapping shared_;
  bool placed_ = false, sized_ = false;
};

}  // namespace handover::vfio
