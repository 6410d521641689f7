#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "handover/base/mapping.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/base/units.h"
#include "handover/vfio/migration_protocol.h"
#include "handover/vfio_abi/device_info.h"

namespace handover::vfio {

struct TrackerOffer;  // dma_tracker.h

/// A DMA mapping: the device sees `size` bytes of the file at `iova`.
struct DmaMapping {
  Iova iova;
  std::uint64_t size = 0;
  std::uint32_t flags = kDmaRead | kDmaWrite;
  int fd = -1;               ///< -1: reachable only through messages or not at all
  std::uint64_t offset = 0;  ///< in the file
  void* host = nullptr;      ///< where this process has it mapped (kernel back ends need it)
  /// Holds what `host` points to as long as it is mapped; may be empty.
  std::shared_ptr<const void> keep = nullptr;
  bool peer = false;  ///< another device's memory: no part of guest RAM, and of no dirty log
};

/// The file behind a mappable area, for those who map it elsewhere.
struct AreaFile {
  int fd = -1;               ///< the device's own, as long as it lives; -1: there is none
  std::uint64_t offset = 0;  ///< of the area's first byte
};

struct IovaRange {
  Iova start;
  std::uint64_t size = 0;
};

/// What was written by DMA in a range of a device's addresses.
struct DirtyReport {
  IovaRange range;
  /// A power of two; 0: all of the range counts as written, and there are no bits.
  std::uint64_t page_size = 0;
  /// Bit i, the least significant first, stands for `range.start + i * page_size`.  As long as the range
  /// needs; the last bit may reach beyond it, but stands for the range's part only.
  std::span<const std::byte> bits = {};

  static DirtyReport everything(const IovaRange& range) { return {.range = range}; }
};
/// Takes a report; the bits are the caller's again when it returns.
using DirtyReportSink = std::function<Status(const DirtyReport&)>;

/// A device's own log of the memory that it wrote by DMA.
///
/// Calls come from one thread at a time, while another may change mappings.
class DmaLog {
 public:
  virtual ~DmaLog() = default;
  /// Logs from now on.  `page_size` is a wish; page_size() then says what the reports use.  A device that
  /// cannot log so many ranges, or so much, refuses; it may be asked again for other ranges.
  virtual Status start(std::uint64_t page_size, std::span<const IovaRange> ranges) = 0;
  /// What was written in the range since the last report of it: a little-endian bitmap with bit i for
  /// `start + i * page_size()`, at least as long as the range needs.  The range may have holes that are not
  /// mapped.
  virtual Result<std::vector<std::byte>> report(const IovaRange& range) = 0;
  virtual Status stop() = 0;
  virtual std::uint64_t page_size() const = 0;
  /// The most ranges that one start() may be given.  (256: VFIO uAPI, Linux 6.12, with pages of 4 KiB.)
  virtual std::size_t max_ranges() const { return 256; }
};

/// One change of what a device can reach by DMA.
struct DmaChange {
  enum class Kind { map, unmap };
  Kind kind = Kind::map;
  DmaMapping mapping;  ///< unmap: only `iova` and `size` count; what lies completely inside goes
  Status result = {};  ///< out: each change succeeds or fails by itself
};

/// A VFIO device as the rest of Handover sees it, whatever carries the calls.
///
/// Calls block until the device has answered.  Region access may come from several threads at once
/// (vCPUs), and interrupts may be set up by one of them.  DMA mappings change by one thread at a time, which
/// need not be the one that drives the migration: they follow the guest's BARs and its IOMMU.  Everything
/// else comes from one thread at a time.  After the device is lost (its process died, its hardware went away)
/// every call fails with Errc::device or Errc::closed and on_lost has been called once.
class Device {
 public:
  virtual ~Device() = default;

  /// The user's id, for messages.
  virtual const std::string& id() const = 0;
  virtual const DeviceInfo& info() const = 0;
  /// Index below info().num_regions.
  virtual const RegionInfo& region(std::uint32_t index) const = 0;
  /// Index below info().num_irqs.
  virtual const IrqInfo& irq(std::uint32_t index) const = 0;

  virtual Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) = 0;
  virtual Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) = 0;
  /// Maps one of the region's areas into this process; whole pages.
  virtual Result<Mapping> map_area(std::uint32_t index, const RegionArea& area) = 0;
  /// What other devices map to reach the area by DMA; an area without a file is reached by messages, and is
  /// of hardware, for which the width of an access matters.  A device of the kernel gives none: who has its
  /// descriptor has all of the device.
  virtual AreaFile area_file(std::uint32_t index, const RegionArea& area) const {
    (void)index, (void)area;
    return {};
  }

  /// Installs one eventfd a vector from vector 0 up (-1: none); an empty list disables the index.
  /// The device keeps duplicates.
  virtual Status set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) = 0;
  /// Lets vector 0 of an index that masks itself when it signals (kIrqAutomasked) signal again, which it does
  /// at once if its cause is still there.  Any thread.
  virtual Status unmask_irq(std::uint32_t index) {
    (void)index;
    return {};
  }
  virtual Status reset() = 0;

  virtual Status dma_map(const DmaMapping& mapping) = 0;
  virtual Status dma_unmap(const IovaRange& range) = 0;
  /// Makes the changes in their order; a later one may need the place of an earlier one.  With `dirt` every
  /// unmapping that succeeds reports, once the device has lost the mapping, what was written there since the
  /// last report of the DMA log; what is not known is reported as written.  All reports have been made when
  /// it returns.
  virtual void dma_change(std::span<DmaChange> changes, const DirtyReportSink* dirt);

  /// DMA of the device that came to this process and reached nothing.  What fails before (in a device's own
  /// process, at the host's IOMMU) is not known here.  Any thread.
  virtual std::uint64_t dma_faults() const { return 0; }

  /// Null: the device cannot migrate, and migration_blocker() says why.
  virtual MigrationProtocol* migration() = 0;
  virtual std::string migration_blocker() const = 0;
  /// Null: the device keeps no log of its DMA.
  virtual DmaLog* dma_log() = 0;
  /// What the host's IOMMU before the device has to offer for dirty tracking: for TrackerKind::iommufd and
  /// TrackerKind::type1 a tracker each, or the reason why there is none.  Trackers do not outlive the device.
  virtual std::vector<TrackerOffer> iommu_offers();

  /// True once the device is gone for good.
  virtual bool lost() const = 0;
  /// Called once, from any thread, when the device is lost.
  virtual void on_lost(std::function<void(std::string reason)> handler) = 0;
};

}  // namespace handover::vfio
