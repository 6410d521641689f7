#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "handover/base/result.h"
#include "handover/vfio/dma_view.h"

namespace handover::vfio {

/// A piece of guest memory that a guest's IOMMU shows to a device.
struct IommuMapping {
  Iova iova;
  std::uint64_t size = 0;
  Gpa target;               ///< guest-physical, all of it RAM
  std::uint32_t flags = 0;  ///< kDmaRead, kDmaWrite
  bool operator==(const IommuMapping&) const = default;
};

/// Mappings by IOVA: any number that do not overlap.  Each call costs the logarithm of their number, and the
/// mappings that it touches.  What is returned is good until the next change.
///
/// Neighbours lie beside each other in memory, so that looking up many in ascending order stays fast when
/// there are millions.
class MappingTable {
 public:
  /// Null if something of it is mapped already; the mapping is neither empty nor wraps.
  const IommuMapping* add(const IommuMapping& mapping);
  /// Those that lie completely inside; Errc::invalid_argument if one would be cut.
  Result<std::vector<IommuMapping>> inside(const IovaRange& range) const;
  void remove(Iova start);
  /// The one at the address, or the next one after it; null: there is none.
  const IommuMapping* at_or_after(Iova iova) const;
  const IommuMapping* at(Iova iova) const;
  std::size_t size() const { return size_; }
  std::vector<IommuMapping> all() const;
  void clear();

 private:
  /// Those that start in the same 2 MiB, ascending; never empty.
  using Bucket = std::vector<IommuMapping>;
  static constexpr std::uint64_t kBucketBytes = 2 * MiB;

  std::map<std::uint64_t, Bucket> buckets_;
  std::size_t size_ = 0;
};

/// The live mappings of one device behind a guest's IOMMU, for those who translate what it wrote.
///
/// A mapping counts from before the device learns of it until after it has lost it: going() and gone() say
/// which.  While the map is held (DmaView), one that is gone still counts, so a report that was under way
/// when an IOVA was given to another page marks both pages: one too many, none too few.
///
/// Changes come from one thread at a time; everything else from any thread.  Memory: a node for each mapping,
/// and a counter for each kChunk of addresses in use.
class IovaMap final : public DmaView {
 public:
  /// What mapped() is rounded to: a dirty bitmap of 4 KiB.
  static constexpr std::uint64_t kChunk = 128 * MiB;

  /// `width`: bits of an IOVA, 13 to 63.
  explicit IovaMap(unsigned width) : width_(width) {}

  /// Before the device is told.  False if it overlaps another.
  bool add(const IommuMapping& mapping);
  /// Before the device is told to let go of it: makes room for another mapping at the same place.  Of what is
  /// not there nothing changes, here and in gone().
  void going(const IommuMapping& mapping);
  /// After the device has let go of it.
  void gone(const IommuMapping& mapping);
  std::size_t size() const;

  std::vector<IovaRange> reach() const override { return {{Iova{0}, std::uint64_t{1} << width_}}; }
  std::vector<IovaRange> mapped() const override;
  void hold() override;
  void release() override;
  Result<std::uint64_t> mark(const DirtyReport& report, DirtyMemory& to) const override;

 private:
  void count(const IommuMapping& mapping, int by);
  std::uint64_t mark_live(std::uint64_t first, std::uint64_t last, DirtyMemory& to) const;
  std::vector<IommuMapping> former(const IovaRange& range) const;

  const unsigned width_;
  mutable std::mutex mutex_;  // leaf
  MappingTable live_;
  std::map<std::uint64_t, std::uint64_t> chunks_;  // writable ones of all three that touch each
  std::vector<IommuMapping> going_;                // the device may still have them
  std::vector<IommuMapping> gone_;                 // since the map is held
  bool held_ = false;
};

/// Calls `visit` for each part of the mapping's guest memory that the report calls written: all that it has
/// of the mapping, if its bits are too few.
void for_each_written(const IommuMapping& mapping, const DirtyReport& report,
                      const std::function<void(Gpa start, std::uint64_t size)>& visit);

}  // namespace handover::vfio
