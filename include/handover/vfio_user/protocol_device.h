#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "handover/vfio_abi/device_info.h"
#include "handover/vfio_user/protocol_fields.h"

/// Payloads about the device: infos, regions, interrupts.
namespace handover::vfio_user::protocol {

/// DEVICE_GET_INFO (4), both ways.
struct DeviceInfo {
  std::uint32_t argsz = 16;
  std::uint32_t flags = 0;
  std::uint32_t num_regions = 0;
  std::uint32_t num_irqs = 0;
  static constexpr auto fields() {
    return std::tuple{&DeviceInfo::argsz, &DeviceInfo::flags, &DeviceInfo::num_regions,
                      &DeviceInfo::num_irqs};
  }
};

struct RegionInfoHead {
  std::uint32_t argsz = 32;
  std::uint32_t flags = 0;
  std::uint32_t index = 0;
  std::uint32_t cap_offset = 0;  ///< of the first capability from the start of the payload; 0: none
  std::uint64_t size = 0;
  std::uint64_t offset = 0;  ///< in the file that comes with the reply
  static constexpr auto fields() {
    return std::tuple{&RegionInfoHead::argsz,      &RegionInfoHead::flags, &RegionInfoHead::index,
                      &RegionInfoHead::cap_offset, &RegionInfoHead::size,  &RegionInfoHead::offset};
  }
};
inline constexpr std::size_t kRegionInfoSize = 32;

/// DEVICE_GET_REGION_INFO (5).  A request is a RegionInfoHead and ignored bytes.
struct RegionInfoReply {
  RegionInfoHead head;
  std::optional<vfio::RegionType> type;
  std::optional<std::vector<vfio::RegionArea>> sparse;

  /// Walks the capability chain if kRegionCaps says that there is one: offsets must go forward and stay
  /// inside the payload.  Unknown capabilities are skipped.
  static Result<RegionInfoReply> decode(std::span<const std::byte> payload);
  /// Sets cap_offset and kRegionCaps from the capabilities that are there, and argsz to at least their size
  /// (a first reply says more: what the second one will need).
  void encode(NativeWriter& out) const;
  std::size_t encoded_size() const;
};

struct RegionIoFdsHead {
  std::uint32_t argsz = 16;
  std::uint32_t flags = 0;
  std::uint32_t index = 0;
  std::uint32_t count = 0;
  static constexpr auto fields() {
    return std::tuple{&RegionIoFdsHead::argsz, &RegionIoFdsHead::flags, &RegionIoFdsHead::index,
                      &RegionIoFdsHead::count};
  }
};
struct RegionIoFd {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint32_t fd_index = 0;
  std::uint32_t type = 0;
  std::uint32_t flags = 0;
  std::uint32_t shadow_fd_index = 0;  ///< padding in the specification
  std::uint64_t value = 0;            ///< specification: datamatch or user data; libvfio-user: shadow offset
  static constexpr auto fields() {
    return std::tuple{&RegionIoFd::offset, &RegionIoFd::size,  &RegionIoFd::fd_index,
                      &RegionIoFd::type,   &RegionIoFd::flags, &RegionIoFd::shadow_fd_index,
                      &RegionIoFd::value};
  }
};
/// DEVICE_GET_REGION_IO_FDS (6), both ways.  Entries have 40 bytes (specification) or 48 (libvfio-user, with
/// the datamatch at the end); the reply's argsz tells which.
struct RegionIoFds {
  RegionIoFdsHead head;
  std::vector<RegionIoFd> entries;
  std::vector<std::uint64_t> datamatch;  ///< one an entry in the layout of 48 bytes, else empty

  static Result<RegionIoFds> decode(std::span<const std::byte> payload);
  void encode(NativeWriter& out) const;
};

/// DEVICE_GET_IRQ_INFO (7), both ways.
struct IrqInfo {
  std::uint32_t argsz = 16;
  std::uint32_t flags = 0;
  std::uint32_t index = 0;
  std::uint32_t count = 0;
  static constexpr auto fields() {
    return std::tuple{&IrqInfo::argsz, &IrqInfo::flags, &IrqInfo::index, &IrqInfo::count};
  }
};

inline constexpr std::uint32_t kIrqDataNone = 1;
inline constexpr std::uint32_t kIrqDataBool = 2;
inline constexpr std::uint32_t kIrqDataEventfd = 4;
inline constexpr std::uint32_t kIrqActionMask = 8;
inline constexpr std::uint32_t kIrqActionUnmask = 16;
inline constexpr std::uint32_t kIrqActionTrigger = 32;

/// DEVICE_SET_IRQS (8); kIrqDataBool has `count` bytes after it.  The reply is a bare header.
struct SetIrqsHead {
  std::uint32_t argsz = 20;
  std::uint32_t flags = 0;
  std::uint32_t index = 0;
  std::uint32_t start = 0;
  std::uint32_t count = 0;
  static constexpr auto fields() {
    return std::tuple{&SetIrqsHead::argsz, &SetIrqsHead::flags, &SetIrqsHead::index, &SetIrqsHead::start,
                      &SetIrqsHead::count};
  }
};
using SetIrqs = WithData<SetIrqsHead>;

/// REGION_READ (9) and REGION_WRITE (10), both ways; data follows in the reply to a read and in a write.
struct RegionAccessHead {
  std::uint64_t offset = 0;
  std::uint32_t region = 0;
  std::uint32_t count = 0;
  static constexpr auto fields() {
    return std::tuple{&RegionAccessHead::offset, &RegionAccessHead::region, &RegionAccessHead::count};
  }
};
using RegionAccess = WithData<RegionAccessHead>;

struct MultiWriteHead {
  std::uint64_t offset = 0;
  std::uint32_t region = 0;
  std::uint32_t count = 0;  ///< 1 to 8
  static constexpr auto fields() {
    return std::tuple{&MultiWriteHead::offset, &MultiWriteHead::region, &MultiWriteHead::count};
  }
};
struct MultiWriteEntry {
  MultiWriteHead head;
  std::array<std::byte, 8> data{};
};
/// REGION_WRITE_MULTI (15), the request; the reply is one u64, the number of writes done.
struct RegionWriteMulti {
  std::vector<MultiWriteEntry> entries;

  /// Fails if the payload does not hold exactly the entries that it announces.
  static Result<RegionWriteMulti> decode(std::span<const std::byte> payload);
  void encode(NativeWriter& out) const;
};
/// The reply of REGION_WRITE_MULTI.
struct WrittenCount {
  std::uint64_t count = 0;
  static constexpr auto fields() { return std::tuple{&WrittenCount::count}; }
};

}  // namespace handover::vfio_user::protocol
