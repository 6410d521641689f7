#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "handover/vfio_user/protocol_fields.h"

/// Payloads of live migration: DEVICE_FEATURE and its features, migration data, DIRTY_PAGES of protocol v1.
namespace handover::vfio_user::protocol {

/// DEVICE_FEATURE (16), both ways: this and the feature's data.
struct FeatureHead {
  std::uint32_t argsz = 8;
  std::uint32_t flags = 0;
  static constexpr auto fields() { return std::tuple{&FeatureHead::argsz, &FeatureHead::flags}; }
  std::uint32_t feature() const { return flags & 0xffff; }
};
using Feature = WithData<FeatureHead>;

inline constexpr std::uint32_t kFeatureGet = 0x10000;
inline constexpr std::uint32_t kFeatureSet = 0x20000;
inline constexpr std::uint32_t kFeatureProbe = 0x40000;

inline constexpr std::uint32_t kFeatureMigration = 1;         ///< GET: U64, the kMigration... bits
inline constexpr std::uint32_t kFeatureDeviceState = 2;       ///< GET, SET: DeviceStateData
inline constexpr std::uint32_t kFeatureDmaLoggingStart = 6;   ///< SET: DmaLoggingStart
inline constexpr std::uint32_t kFeatureDmaLoggingStop = 7;    ///< SET: nothing
inline constexpr std::uint32_t kFeatureDmaLoggingReport = 8;  ///< GET: DmaLoggingReport, reply with bitmap

/// Two features beyond vfio-user 0.9.2 that Handover's server has, to be found by PROBE only.  Other
/// servers answer the PROBE with an error, other clients never ask.
///
/// MIG_DATA_SIZE has the kernel's number and meaning: GET in any state, reply U64, an estimate of the bytes
/// that STOP_COPY will give.  ENODATA if the device cannot say.
inline constexpr std::uint32_t kFeatureMigDataSize = 9;
/// MIG_PRECOPY_INFO is Handover's own (the kernel has an ioctl on the data descriptor for it): GET in
/// PRE_COPY and PRE_COPY_P2P (EINVAL elsewhere), reply PrecopyInfoData.  ENODATA if the device cannot say.
inline constexpr std::uint32_t kFeatureMigPrecopyInfo = 0xff00;

struct U64 {
  std::uint64_t value = 0;
  static constexpr auto fields() { return std::tuple{&U64::value}; }
};

struct DeviceStateData {
  std::uint32_t state = 0;
  std::uint32_t data_fd = 0xffffffff;  ///< unused in vfio-user
  static constexpr auto fields() { return std::tuple{&DeviceStateData::state, &DeviceStateData::data_fd}; }
};

struct DmaLoggingStartHead {
  std::uint64_t page_size = 0;
  std::uint32_t num_ranges = 0;  ///< 0: everything
  std::uint32_t reserved = 0;
  static constexpr auto fields() {
    return std::tuple{&DmaLoggingStartHead::page_size, &DmaLoggingStartHead::num_ranges,
                      &DmaLoggingStartHead::reserved};
  }
};
struct LoggedRange {
  std::uint64_t iova = 0;
  std::uint64_t length = 0;
  static constexpr auto fields() { return std::tuple{&LoggedRange::iova, &LoggedRange::length}; }
};
struct DmaLoggingStart {
  DmaLoggingStartHead head;
  std::vector<LoggedRange> ranges;

  /// Fails if the data does not hold exactly the ranges that it announces.
  static Result<DmaLoggingStart> decode(std::span<const std::byte> data);
  /// Sets num_ranges.
  void encode(NativeWriter& out) const;
};

struct DmaLoggingReportHead {
  std::uint64_t iova = 0;
  std::uint64_t length = 0;
  std::uint64_t page_size = 0;
  static constexpr auto fields() {
    return std::tuple{&DmaLoggingReportHead::iova, &DmaLoggingReportHead::length,
                      &DmaLoggingReportHead::page_size};
  }
};
using DmaLoggingReport = WithData<DmaLoggingReportHead>;

/// New initial bytes have appeared since the last answer (bit 0, as in the kernel's MIG_PRECOPY_INFOv2).
inline constexpr std::uint64_t kPrecopyReinit = 1;

struct PrecopyInfoData {
  std::uint64_t initial_bytes = 0;
  std::uint64_t dirty_bytes = 0;
  std::uint64_t flags = 0;  ///< kPrecopyReinit
  static constexpr auto fields() {
    return std::tuple{&PrecopyInfoData::initial_bytes, &PrecopyInfoData::dirty_bytes,
                      &PrecopyInfoData::flags};
  }
};

/// Bytes of a bitmap with one bit for each `page_size` of `length`, in whole u64 words; 0 if `page_size` is
/// 0.
constexpr std::uint64_t bitmap_bytes(std::uint64_t length, std::uint64_t page_size) {
  if (page_size == 0) return 0;
  const auto pages = length / page_size + (length % page_size != 0);
  return (pages / 64 + (pages % 64 != 0)) * 8;
}

/// MIG_DATA_READ (17) and MIG_DATA_WRITE (18), both ways.  The reply to a read may be longer on the wire than
/// `size` says (libvfio-user pads); the reply to a write is a bare header.
struct MigDataHead {
  std::uint32_t argsz = 8;
  std::uint32_t size = 0;
  static constexpr auto fields() { return std::tuple{&MigDataHead::argsz, &MigDataHead::size}; }
};
using MigData = WithData<MigDataHead>;

/// DIRTY_PAGES (14) of migration protocol v1, both ways.
struct DirtyPagesHead {
  std::uint32_t argsz = 8;
  std::uint32_t flags = 0;  ///< 1 start, 2 stop, 4 get bitmap
  static constexpr auto fields() { return std::tuple{&DirtyPagesHead::argsz, &DirtyPagesHead::flags}; }
};
struct DirtyPagesRange {
  std::uint64_t iova = 0;
  std::uint64_t size = 0;
  std::uint64_t page_size = 0;
  std::uint64_t bitmap_bytes = 0;
  static constexpr auto fields() {
    return std::tuple{&DirtyPagesRange::iova, &DirtyPagesRange::size, &DirtyPagesRange::page_size,
                      &DirtyPagesRange::bitmap_bytes};
  }
};
inline constexpr std::uint32_t kDirtyPagesGetBitmap = 4;
struct DirtyPages {
  DirtyPagesHead head;
  std::optional<DirtyPagesRange> range;  ///< with kDirtyPagesGetBitmap
  std::span<const std::byte> bitmap;     ///< whatever followed

  static Result<DirtyPages> decode(std::span<const std::byte> payload);
  void encode(NativeWriter& out) const;
};

}  // namespace handover::vfio_user::protocol
