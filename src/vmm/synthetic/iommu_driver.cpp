#include "vmm/synthetic/iommu_driver.h"

namespace handover::vmm::synthetic {

using iommu::Command;
using iommu::CommandStatus;
using iommu::Operation;

Status IommuDriver::set_up() {
  const auto id = bus_.load<std::uint32_t>(iommu::kBase + iommu::reg::kId);
  if (id != iommu::kIdValue)
    return fail(Errc::mismatch, "the id register of the IOMMU: expected {:#x}, got {:#x}", iommu::kIdValue,
                id);
  bus_.store<std::uint64_t>(iommu::kBase + iommu::reg::kRingAddress, Layout::iommu_ring().value);
  bus_.store<std::uint32_t>(iommu::kBase + iommu::reg::kRingEntries, kEntries);
  registers_.iommu_tail = 0;
  return {};
}

void IommuDriver::put(Command command) {
  if (waiting_ == kEntries) failed_ = flush();
  ram_.store(entry(registers_.iommu_tail + waiting_), command);
  ++waiting_;
}

void IommuDriver::attach(std::uint32_t slot, std::uint32_t domain) {
  put({.operation = static_cast<std::uint32_t>(Operation::attach),
       .domain = domain,
       .endpoint = iommu::endpoint_of(slot)});
}

void IommuDriver::map(std::uint32_t domain, Iova iova, Gpa target, std::uint64_t size, std::uint32_t flags) {
  put({.operation = static_cast<std::uint32_t>(Operation::map),
       .flags = flags,
       .domain = domain,
       .iova = iova.value,
       .size = size,
       .target = target.value});
  ++registers_.iommu_mappings;
}

void IommuDriver::unmap(std::uint32_t domain, Iova iova, std::uint64_t size) {
  put({.operation = static_cast<std::uint32_t>(Operation::unmap),
       .domain = domain,
       .iova = iova.value,
       .size = size});
}

CommandStatus IommuDriver::flush() {
  const auto first = registers_.iommu_tail;
  registers_.iommu_tail += std::exchange(waiting_, 0);
  auto status = std::exchange(failed_, CommandStatus::ok);
  if (registers_.iommu_tail == first) return status;
  bus_.store<std::uint32_t>(iommu::kBase + iommu::reg::kTail, registers_.iommu_tail);
  for (auto number = first; number != registers_.iommu_tail && status == CommandStatus::ok; ++number)
    status = static_cast<CommandStatus>(ram_.load<Command>(entry(number)).status);
  return status;
}

}  // namespace handover::vmm::synthetic
