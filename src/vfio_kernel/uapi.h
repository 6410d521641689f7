#pragma once

#include <cstdint>

/// The kernel's VFIO and iommufd interfaces: numbers and layouts.  Source: VFIO uAPI and iommufd uAPI, Linux
/// 6.12, unless a line names a later kernel.  Declared here and not taken from <linux/vfio.h>, which on
/// Debian 12 is Linux 6.1's; uapi.cpp checks what both have.
namespace handover::vfio_kernel::uapi {

/// Ioctls have neither size nor direction in their numbers.
inline constexpr unsigned long request(unsigned nr) {
  return 0x3bul << 8 | nr;
}

// On a container.
inline constexpr auto kGetApiVersion = request(100);
inline constexpr auto kCheckExtension = request(101);
inline constexpr auto kSetIommu = request(102);
inline constexpr auto kIommuGetInfo = request(112);
inline constexpr auto kIommuMapDma = request(113);
inline constexpr auto kIommuUnmapDma = request(114);
inline constexpr auto kIommuDirtyPages = request(117);  // the number that on a device is kDeviceFeature
inline constexpr int kType1v2 = 3;
inline constexpr int kExtensionType1v2 = 3;

// On a group.
inline constexpr auto kGroupGetStatus = request(103);
inline constexpr auto kGroupSetContainer = request(104);
inline constexpr auto kGroupGetDeviceFd = request(106);
inline constexpr std::uint32_t kGroupViable = 1;

// On a device.
inline constexpr auto kDeviceGetInfo = request(107);
inline constexpr auto kDeviceGetRegionInfo = request(108);
inline constexpr auto kDeviceGetIrqInfo = request(109);
inline constexpr auto kDeviceSetIrqs = request(110);
inline constexpr auto kDeviceReset = request(111);
inline constexpr auto kDeviceFeature = request(117);
inline constexpr auto kDeviceBindIommufd = request(118);      // Linux 6.6
inline constexpr auto kDeviceAttachIommufdPt = request(119);  // Linux 6.6

// On a migration data descriptor.
inline constexpr auto kMigGetPrecopyInfo = request(121);  // Linux 6.2

struct GroupStatus {
  std::uint32_t argsz;
  std::uint32_t flags;
};

struct DeviceInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t num_regions;
  std::uint32_t num_irqs;
  std::uint32_t cap_offset;
  std::uint32_t pad;
};
static_assert(sizeof(DeviceInfo) == 24);

struct RegionInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t cap_offset;
  std::uint64_t size;
  std::uint64_t offset;
};
static_assert(sizeof(RegionInfo) == 32);

struct IrqInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t count;
};

struct IrqSet {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t start;
  std::uint32_t count;
  // data follows
};
static_assert(sizeof(IrqSet) == 20);
inline constexpr std::uint32_t kIrqSetDataNone = 1;
inline constexpr std::uint32_t kIrqSetDataEventfd = 4;
inline constexpr std::uint32_t kIrqSetActionUnmask = 16;
inline constexpr std::uint32_t kIrqSetActionTrigger = 32;

/// A capability in a chain; offsets are from the start of the structure that has the chain.
struct CapabilityHeader {
  std::uint16_t id;
  std::uint16_t version;
  std::uint32_t next;
};
inline constexpr std::uint16_t kCapSparseMmap = 1;
inline constexpr std::uint16_t kCapRegionType = 2;

struct Feature {
  std::uint32_t argsz;
  std::uint32_t flags;
  // data follows
};
inline constexpr std::uint32_t kFeatureGet = 1u << 16;
inline constexpr std::uint32_t kFeatureSet = 1u << 17;
inline constexpr std::uint32_t kFeatureProbe = 1u << 18;
inline constexpr std::uint32_t kFeatureMigration = 1;
inline constexpr std::uint32_t kFeatureMigDeviceState = 2;
inline constexpr std::uint32_t kFeatureDmaLoggingStart = 6;
inline constexpr std::uint32_t kFeatureDmaLoggingStop = 7;
inline constexpr std::uint32_t kFeatureDmaLoggingReport = 8;
inline constexpr std::uint32_t kFeatureMigDataSize = 9;     // Linux 6.2
inline constexpr std::uint32_t kFeaturePrecopyInfoV2 = 12;  // Linux 7.1

struct MigDeviceState {
  std::uint32_t device_state;
  std::int32_t data_fd;
};

struct DmaLoggingStart {
  std::uint64_t page_size;
  std::uint32_t num_ranges;
  std::uint32_t reserved;
  std::uint64_t ranges;  // pointer
};
static_assert(sizeof(DmaLoggingStart) == 24);
struct DmaLoggingRange {
  std::uint64_t iova;
  std::uint64_t length;
};
struct DmaLoggingReport {
  std::uint64_t iova;
  std::uint64_t length;
  std::uint64_t page_size;
  std::uint64_t bitmap;  // pointer
};
static_assert(sizeof(DmaLoggingReport) == 32);

struct PrecopyInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t initial_bytes;
  std::uint64_t dirty_bytes;
};
static_assert(sizeof(PrecopyInfo) == 24);
inline constexpr std::uint32_t kPrecopyReinit = 1;  // Linux 7.1

struct IommuMap {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t vaddr;
  std::uint64_t iova;
  std::uint64_t size;
};
static_assert(sizeof(IommuMap) == 32);
struct IommuUnmap {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t iova;
  std::uint64_t size;
};
static_assert(sizeof(IommuUnmap) == 24);
inline constexpr std::uint32_t kDmaRead = 1;
inline constexpr std::uint32_t kDmaWrite = 2;

struct IommuInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t iova_pgsizes;
  std::uint32_t cap_offset;
  std::uint32_t pad;
};
static_assert(sizeof(IommuInfo) == 24);
inline constexpr std::uint32_t kIommuInfoCaps = 2;
inline constexpr std::uint16_t kCapIovaRange = 1;
inline constexpr std::uint16_t kCapMigration = 2;  // Linux 5.8
struct CapMigration {
  CapabilityHeader header;
  std::uint32_t flags;
  std::uint32_t pad;
  std::uint64_t pgsize_bitmap;
  std::uint64_t max_dirty_bitmap_size;
};
static_assert(sizeof(CapMigration) == 32);

/// Where a container puts its bits.
struct DirtyBitmap {
  std::uint64_t pgsize;
  std::uint64_t size;  // bytes
  std::uint64_t data;  // pointer
};
static_assert(sizeof(DirtyBitmap) == 24);
struct DirtyPages {
  std::uint32_t argsz;
  std::uint32_t flags;
};
struct DirtyPagesGet {
  DirtyPages head;
  std::uint64_t iova;
  std::uint64_t size;
  DirtyBitmap bitmap;
};
static_assert(sizeof(DirtyPagesGet) == 48);
inline constexpr std::uint32_t kDirtyPagesStart = 1;
inline constexpr std::uint32_t kDirtyPagesStop = 2;
inline constexpr std::uint32_t kDirtyPagesGetBitmap = 4;
struct IommuUnmapDirty {
  IommuUnmap head;
  DirtyBitmap bitmap;
};
static_assert(sizeof(IommuUnmapDirty) == 48);
inline constexpr std::uint32_t kUnmapGetDirtyBitmap = 1;

struct BindIommufd {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::int32_t iommufd;
  std::uint32_t out_devid;
};
static_assert(sizeof(BindIommufd) == 16);
struct AttachIommufdPt {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t pt_id;
};
static_assert(sizeof(AttachIommufdPt) == 12);

// iommufd (Linux 6.2); structures begin with their size.
inline constexpr auto kIommufdDestroy = request(0x80);
inline constexpr auto kIoasAlloc = request(0x81);
inline constexpr auto kIoasMap = request(0x85);
inline constexpr auto kIoasUnmap = request(0x86);
inline constexpr auto kHwptAlloc = request(0x89);             // Linux 6.6; its flags 6.7
inline constexpr auto kGetHwInfo = request(0x8a);             // Linux 6.6; its capabilities 6.7
inline constexpr auto kHwptSetDirtyTracking = request(0x8b);  // Linux 6.7
inline constexpr auto kHwptGetDirtyBitmap = request(0x8c);    // Linux 6.7
struct IoasAlloc {
  std::uint32_t size;
  std::uint32_t flags;
  std::uint32_t out_ioas_id;
};
static_assert(sizeof(IoasAlloc) == 12);
struct IoasMap {
  std::uint32_t size;
  std::uint32_t flags;
  std::uint32_t ioas_id;
  std::uint32_t reserved;
  std::uint64_t user_va;
  std::uint64_t length;
  std::uint64_t iova;
};
static_assert(sizeof(IoasMap) == 40);
inline constexpr std::uint32_t kIoasMapFixedIova = 1;
inline constexpr std::uint32_t kIoasMapWriteable = 2;
inline constexpr std::uint32_t kIoasMapReadable = 4;
struct IoasUnmap {
  std::uint32_t size;
  std::uint32_t ioas_id;
  std::uint64_t iova;
  std::uint64_t length;
};
static_assert(sizeof(IoasUnmap) == 24);
struct IommufdDestroy {
  std::uint32_t size;
  std::uint32_t id;
};
struct HwInfo {
  std::uint32_t size;
  std::uint32_t flags;
  std::uint32_t dev_id;
  std::uint32_t data_len;
  std::uint64_t data;  // pointer
  std::uint32_t out_data_type;
  std::uint32_t pad;
  std::uint64_t out_capabilities;
};
static_assert(sizeof(HwInfo) == 40);
inline constexpr std::uint64_t kHwCapDirtyTracking = 1;
struct HwptAlloc {
  std::uint32_t size;
  std::uint32_t flags;
  std::uint32_t dev_id;
  std::uint32_t pt_id;
  std::uint32_t out_hwpt_id;
  std::uint32_t reserved;
};
/// The structure as it was at first; what came later is for nested tables.
static_assert(sizeof(HwptAlloc) == 24);
inline constexpr std::uint32_t kHwptAllocDirtyTracking = 2;
struct HwptSetDirtyTracking {
  std::uint32_t size;
  std::uint32_t flags;
  std::uint32_t hwpt_id;
  std::uint32_t reserved;
};
static_assert(sizeof(HwptSetDirtyTracking) == 16);
inline constexpr std::uint32_t kDirtyTrackingEnable = 1;
struct HwptGetDirtyBitmap {
  std::uint32_t size;
  std::uint32_t hwpt_id;
  std::uint32_t flags;
  std::uint32_t reserved;
  std::uint64_t iova;
  std::uint64_t length;
  std::uint64_t page_size;
  std::uint64_t data;  // pointer
};
static_assert(sizeof(HwptGetDirtyBitmap) == 48);
inline constexpr std::uint32_t kGetDirtyBitmapNoClear = 1;

}  // namespace handover::vfio_kernel::uapi
