#include "vmm/synthetic/accelerator_driver.h"

// What of guest memory the device reaches: all of it, or what is mapped in the IOMMU.

namespace handover::vmm::synthetic {

namespace reg = accelerator::reg;
using accelerator::Operation;

namespace {

// Of each device's own domain.
constexpr Iova kSubmissionIova{0x10'0000'0000};
constexpr Iova kCompletionIova{0x20'0000'0000};
constexpr Iova kBufferIova{0x4000'0000};
/// Addresses for buffers: each is given to another job as soon as it is free.
constexpr std::uint64_t kBufferPlaces = kMaxInFlight + kMaxDeferred;
constexpr std::uint64_t kBufferStride = 2 * kSlotBytes;
/// Jobs for which buffers are unmapped in one of the two ways, before it is the other's turn.
constexpr std::uint64_t kTurn = 256;

constexpr Gpa page_of(Gpa at) {
  return Gpa{at.value & ~(kPageSize - 1)};
}

}  // namespace

Result<bool> AcceleratorDriver::set_up_rings() {
  auto submission = (area_ + DeviceArea::kSubmission).value;
  auto completion = (area_ + DeviceArea::kCompletion).value;
  if (context_.registers.viommu) {
    constexpr auto kSubmissionBytes = align_up(kRingEntries * sizeof(accelerator::Descriptor), kPageSize);
    iommu_.attach(device_.slot, domain());
    iommu_.map(domain(), kSubmissionIova, Gpa{submission}, kSubmissionBytes, iommu::kRead);
    iommu_.map(domain(), kCompletionIova, Gpa{completion}, kPageSize, iommu::kWrite);
    submission = kSubmissionIova.value;
    completion = kCompletionIova.value;
    HANDOVER_ASSIGN(const bool there, flush_iommu());
    if (!there) return false;
  }
  const Gpa regs{device_.registers_bar};
  context_.bus.store<std::uint64_t>(regs + reg::kRingAddress, submission);
  context_.bus.store<std::uint64_t>(regs + reg::kCompletionAddress, completion);
  return true;
}

std::uint64_t AcceleratorDriver::buffer_iova(std::uint64_t number) const {
  return kBufferIova.value + number % kBufferPlaces * kBufferStride;
}

std::uint64_t AcceleratorDriver::reach(std::uint64_t number, const JobRecord& job, Gpa buffer) {
  if (!context_.registers.viommu) return buffer.value;
  const auto at = buffer_iova(number);
  const auto in_page = buffer.value % kPageSize;
  if (job.purpose == Purpose::unmapped) return at;
  const bool reads = job.operation == static_cast<std::uint32_t>(Operation::copy_in);
  iommu_.map(domain(), Iova{at}, page_of(buffer), align_up(in_page + job.length, kPageSize),
             reads ? iommu::kRead : iommu::kWrite);
  return at + in_page;
}

Result<bool> AcceleratorDriver::flush_iommu() {
  if (!context_.registers.viommu) return true;
  const auto status = iommu_.flush();
  if (status == iommu::CommandStatus::ok) return true;
  if (gone()) return false;
  HANDOVER_TRY(
      wrong(fmt::format("the IOMMU refused a command with status {}", static_cast<std::uint32_t>(status))));
  return false;
}

Result<bool> AcceleratorDriver::forget_buffers(std::uint64_t end, bool now) {
  if (!context_.registers.viommu) return true;
  const bool in_batches = end / kTurn % 2 == 1;
  if (in_batches && !now && end - device_.unmapped < kMaxDeferred) return true;
  for (; device_.unmapped < end; ++device_.unmapped)
    iommu_.unmap(domain(), Iova{buffer_iova(device_.unmapped)}, kBufferStride);
  return flush_iommu();
}

}  // namespace handover::vmm::synthetic
