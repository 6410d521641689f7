// Our declarations against those of the system, where both have them.

#include "vfio_kernel/uapi.h"

#include <linux/vfio.h>

#include <cstddef>

#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#endif

namespace handover::vfio_kernel::uapi {

static_assert(kGetApiVersion == VFIO_GET_API_VERSION && kCheckExtension == VFIO_CHECK_EXTENSION &&
              kSetIommu == VFIO_SET_IOMMU && kType1v2 == VFIO_TYPE1v2_IOMMU);
static_assert(kGroupGetStatus == VFIO_GROUP_GET_STATUS && kGroupSetContainer == VFIO_GROUP_SET_CONTAINER &&
              kGroupGetDeviceFd == VFIO_GROUP_GET_DEVICE_FD && kGroupViable == VFIO_GROUP_FLAGS_VIABLE);
static_assert(kIommuGetInfo == VFIO_IOMMU_GET_INFO && kIommuMapDma == VFIO_IOMMU_MAP_DMA &&
              kIommuUnmapDma == VFIO_IOMMU_UNMAP_DMA);
static_assert(kDeviceGetInfo == VFIO_DEVICE_GET_INFO && kDeviceGetRegionInfo == VFIO_DEVICE_GET_REGION_INFO &&
              kDeviceGetIrqInfo == VFIO_DEVICE_GET_IRQ_INFO && kDeviceSetIrqs == VFIO_DEVICE_SET_IRQS &&
              kDeviceReset == VFIO_DEVICE_RESET && kDeviceFeature == VFIO_DEVICE_FEATURE);
static_assert(sizeof(RegionInfo) == sizeof(vfio_region_info) &&
              offsetof(RegionInfo, size) == offsetof(vfio_region_info, size) &&
              offsetof(RegionInfo, offset) == offsetof(vfio_region_info, offset));
static_assert(offsetof(DeviceInfo, cap_offset) == offsetof(vfio_device_info, cap_offset) &&
              offsetof(DeviceInfo, num_irqs) == offsetof(vfio_device_info, num_irqs));
static_assert(sizeof(IrqInfo) == sizeof(vfio_irq_info) && sizeof(IrqSet) == sizeof(vfio_irq_set));
static_assert(sizeof(CapabilityHeader) == sizeof(vfio_info_cap_header) &&
              kCapSparseMmap == VFIO_REGION_INFO_CAP_SPARSE_MMAP &&
              kCapRegionType == VFIO_REGION_INFO_CAP_TYPE);
static_assert(kIrqSetDataNone == VFIO_IRQ_SET_DATA_NONE && kIrqSetDataEventfd == VFIO_IRQ_SET_DATA_EVENTFD &&
              kIrqSetActionUnmask == VFIO_IRQ_SET_ACTION_UNMASK &&
              kIrqSetActionTrigger == VFIO_IRQ_SET_ACTION_TRIGGER);
static_assert(kFeatureGet == VFIO_DEVICE_FEATURE_GET && kFeatureSet == VFIO_DEVICE_FEATURE_SET &&
              kFeatureProbe == VFIO_DEVICE_FEATURE_PROBE);
static_assert(kFeatureMigration == VFIO_DEVICE_FEATURE_MIGRATION &&
              kFeatureMigDeviceState == VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE);
static_assert(kFeatureDmaLoggingStart == VFIO_DEVICE_FEATURE_DMA_LOGGING_START &&
              kFeatureDmaLoggingStop == VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP &&
              kFeatureDmaLoggingReport == VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT);
static_assert(sizeof(MigDeviceState) == sizeof(vfio_device_feature_mig_state) &&
              sizeof(DmaLoggingStart) == sizeof(vfio_device_feature_dma_logging_control) &&
              sizeof(DmaLoggingReport) == sizeof(vfio_device_feature_dma_logging_report));
static_assert(sizeof(IommuMap) == sizeof(vfio_iommu_type1_dma_map) &&
              offsetof(IommuMap, iova) == offsetof(vfio_iommu_type1_dma_map, iova) &&
              sizeof(IommuUnmap) == sizeof(vfio_iommu_type1_dma_unmap) &&
              kDmaRead == VFIO_DMA_MAP_FLAG_READ && kDmaWrite == VFIO_DMA_MAP_FLAG_WRITE);
static_assert(offsetof(IommuInfo, cap_offset) == offsetof(vfio_iommu_type1_info, cap_offset) &&
              kIommuInfoCaps == VFIO_IOMMU_INFO_CAPS &&
              kCapIovaRange == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE &&
              kCapMigration == VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION &&
              sizeof(CapMigration) == sizeof(vfio_iommu_type1_info_cap_migration) &&
              offsetof(CapMigration, pgsize_bitmap) ==
                  offsetof(vfio_iommu_type1_info_cap_migration, pgsize_bitmap));
static_assert(kIommuDirtyPages == VFIO_IOMMU_DIRTY_PAGES &&
              kDirtyPagesStart == VFIO_IOMMU_DIRTY_PAGES_FLAG_START &&
              kDirtyPagesStop == VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP &&
              kDirtyPagesGetBitmap == VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP &&
              kUnmapGetDirtyBitmap == VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP &&
              sizeof(DirtyBitmap) == sizeof(vfio_bitmap) &&
              offsetof(DirtyBitmap, size) == offsetof(vfio_bitmap, size) &&
              sizeof(DirtyPagesGet) ==
                  sizeof(vfio_iommu_type1_dirty_bitmap) + sizeof(vfio_iommu_type1_dirty_bitmap_get) &&
              offsetof(IommuUnmapDirty, bitmap) == offsetof(vfio_iommu_type1_dma_unmap, data));

#ifdef IOMMU_IOAS_UNMAP
static_assert(kIommufdDestroy == IOMMU_DESTROY && kIoasAlloc == IOMMU_IOAS_ALLOC &&
              kIoasMap == IOMMU_IOAS_MAP && kIoasUnmap == IOMMU_IOAS_UNMAP);
static_assert(sizeof(IommufdDestroy) == sizeof(iommu_destroy) &&
              sizeof(IoasAlloc) == sizeof(iommu_ioas_alloc) && sizeof(IoasMap) == sizeof(iommu_ioas_map) &&
              offsetof(IoasMap, iova) == offsetof(iommu_ioas_map, iova) &&
              sizeof(IoasUnmap) == sizeof(iommu_ioas_unmap));
#endif
#ifdef IOMMU_HWPT_GET_DIRTY_BITMAP
static_assert(kHwptAlloc == IOMMU_HWPT_ALLOC && kGetHwInfo == IOMMU_GET_HW_INFO &&
              kHwptSetDirtyTracking == IOMMU_HWPT_SET_DIRTY_TRACKING &&
              kHwptGetDirtyBitmap == IOMMU_HWPT_GET_DIRTY_BITMAP);
static_assert(sizeof(HwInfo) == sizeof(iommu_hw_info) &&
              offsetof(HwInfo, out_capabilities) == offsetof(iommu_hw_info, out_capabilities) &&
              kHwCapDirtyTracking == IOMMU_HW_CAP_DIRTY_TRACKING);
static_assert(sizeof(HwptAlloc) <= sizeof(iommu_hwpt_alloc) &&
              offsetof(HwptAlloc, out_hwpt_id) == offsetof(iommu_hwpt_alloc, out_hwpt_id) &&
              kHwptAllocDirtyTracking == IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
static_assert(sizeof(HwptSetDirtyTracking) == sizeof(iommu_hwpt_set_dirty_tracking) &&
              offsetof(HwptSetDirtyTracking, hwpt_id) == offsetof(iommu_hwpt_set_dirty_tracking, hwpt_id) &&
              kDirtyTrackingEnable == IOMMU_HWPT_DIRTY_TRACKING_ENABLE);
static_assert(sizeof(HwptGetDirtyBitmap) == sizeof(iommu_hwpt_get_dirty_bitmap) &&
              offsetof(HwptGetDirtyBitmap, page_size) == offsetof(iommu_hwpt_get_dirty_bitmap, page_size) &&
              kGetDirtyBitmapNoClear == IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR);
#endif

}  // namespace handover::vfio_kernel::uapi
