// Our declarations against those of the system, where both have them.

#include "vfio_kernel/uapi.h"

#include <linux/vfio.h>

#include <cstddef>

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

}  // namespace handover::vfio_kernel::uapi
