#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "vmm/synthetic/accelerator_driver.h"

// What the driver has the device do, and how it judges the result.

namespace handover::vmm::synthetic {

using accelerator::CompletionRecord;
using accelerator::JobStatus;
using accelerator::Operation;

namespace {

constexpr std::uint64_t kDomain = 0x534c4f54;
constexpr std::uint64_t kJobCost = 1'000'000'000;
constexpr std::uint64_t kMostJobsPerSecond = 1'000'000;

constexpr auto kVaried = static_cast<std::uint32_t>(Content::Kind::varied);
constexpr auto kPlain = static_cast<std::uint32_t>(Content::Kind::plain);

}  // namespace

std::uint64_t AcceleratorDriver::slot_bytes() const {
  return std::min(kSlotBytes, device_.memory_size & ~std::uint64_t{7});
}

std::uint32_t AcceleratorDriver::all_slots() const {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(kMaxSlots, device_.memory_size / slot_bytes()));
}

std::uint64_t AcceleratorDriver::slot_offset(std::uint32_t slot) const {
  return slot * (device_.memory_size / all_slots() & ~std::uint64_t{7});
}

std::uint64_t AcceleratorDriver::device_offset(const JobRecord& job) const {
  const bool staging = job.purpose == Purpose::from_peer || job.purpose == Purpose::staged;
  return staging ? slot_offset(slot_count()) : slot_offset(job.slot) + job.offset;
}

Content AcceleratorDriver::content(std::uint32_t slot, std::uint32_t kind, std::uint32_t generation) const {
  if (kind != kVaried && kind != kPlain) return {};
  return {static_cast<Content::Kind>(kind), mix(seed(), kDomain, index_, slot, generation)};
}

Status AcceleratorDriver::submit(std::uint64_t elapsed) {
  if (!running()) return {};
  const std::uint64_t rate = std::min(context_.registers.job_rate, kMostJobsPerSecond);
  if (rate == 0) return {};
  const std::uint64_t limit = std::max(rate / 20, std::uint64_t{1}) * kJobCost;
  device_.job_credit =
      std::min(limit, device_.job_credit + rate * std::min<std::uint64_t>(elapsed, 50'000'000));
  const std::uint64_t before = device_.submitted;
  while (running() && device_.job_credit >= kJobCost && outstanding() < kMaxInFlight) {
    device_.job_credit -= kJobCost;
    HANDOVER_TRY(submit_one());
  }
  if (running() && device_.submitted != before) return ring_doorbell();
  return {};
}

Status AcceleratorDriver::submit_one() {
  const std::uint64_t choice = context_.registers.next_random();
  const auto slot = static_cast<std::uint32_t>((choice >> 32) % slot_count());
  if (choice % 4 == 0) HANDOVER_TRY(check_archive((choice >> 8) % kArchiveEntries));
  if ((choice >> 4) % 8 == 0) HANDOVER_TRY(exercise_window());
  if (!running()) return {};
  if (context_.registers.viommu && (choice >> 24) % 16 == 0) return submit_unmapped();
  if ((choice >> 20) % 4 == 0) {
    HANDOVER_ASSIGN(const bool submitted, submit_to_peers());
    if (submitted || !running()) return {};
  }
  HANDOVER_ASSIGN(const auto record, load_record<SlotRecord>(slot_record(slot), "the record of a slot"));
  static constexpr Operation kMix[8] = {Operation::copy_in,  Operation::copy_in,  Operation::copy_in,
                                        Operation::copy_out, Operation::copy_out, Operation::fill,
                                        Operation::hash,     Operation::hash};
  Operation operation = kMix[(choice >> 16) % 8];
  const bool reads = operation == Operation::copy_out || operation == Operation::hash;
  // Nothing is known of a slot that was never written.
  if (reads && record.generation == 0) operation = Operation::copy_in;
  if (operation == Operation::copy_in || operation == Operation::fill) return submit_write(slot, operation);
  return submit_read(slot, operation, false);
}

Status AcceleratorDriver::submit_write(std::uint32_t slot, Operation operation) {
  JobRecord job;
  job.operation = static_cast<std::uint32_t>(operation);
  job.slot = slot;
  job.kind = operation == Operation::fill ? kPlain : kVaried;
  job.generation = static_cast<std::uint32_t>(++device_.generation);
  if (job.generation == 0) job.generation = static_cast<std::uint32_t>(++device_.generation);
  job.length = static_cast<std::uint32_t>(slot_bytes());
  // Jobs are carried out in order, so whatever is submitted after this one finds the new content.
  store_record(slot_record(slot), SlotRecord{job.kind, job.generation, 0});
  put_job(job);
  return {};
}

Status AcceleratorDriver::submit_read(std::uint32_t slot, Operation operation, bool whole) {
  HANDOVER_ASSIGN(const auto record, load_record<SlotRecord>(slot_record(slot), "the record of a slot"));
  JobRecord job;
  job.operation = static_cast<std::uint32_t>(operation);
  job.slot = slot;
  job.kind = record.kind;
  job.generation = record.generation;
  const auto bytes = static_cast<std::uint32_t>(slot_bytes());
  job.length = bytes;
  if (!whole) {
    // Any part at any alignment.
    job.offset = static_cast<std::uint32_t>(context_.registers.next_random() % bytes);
    job.length = 1 + static_cast<std::uint32_t>(context_.registers.next_random() % (bytes - job.offset));
  }
  if (operation == Operation::copy_out) {
    job.archive = static_cast<std::uint32_t>(device_.submitted % kArchiveEntries);
    job.shift = static_cast<std::uint32_t>(context_.registers.next_random() % (kSlotBytes - job.length + 1));
    store_record(archive_record(job.archive), ArchiveRecord{});
  }
  put_job(job);
  return {};
}

// To the address that it would have, if it were mapped: jobs before it were, with other buffers.
Status AcceleratorDriver::submit_unmapped() {
  JobRecord job;
  job.operation = static_cast<std::uint32_t>(Operation::copy_out);
  job.purpose = Purpose::unmapped;
  job.length = static_cast<std::uint32_t>(std::min(slot_bytes(), kPageSize));
  put_job(job);
  return {};
}

std::uint64_t AcceleratorDriver::expected_hash(const JobRecord& job) const {
  std::vector<std::byte> bytes(job.length);
  generate(content(job.slot, job.kind, job.generation), job.offset, bytes);
  return XXH3_64bits(bytes.data(), bytes.size());
}

// Before anything is done with a record: it comes from memory that a stream may have brought.
Status AcceleratorDriver::check_sense(const JobRecord& job) const {
  if (job.length == 0 || !range_fits(job.offset, job.length, slot_bytes()) || job.slot >= slot_count() ||
      job.archive >= kArchiveEntries || !range_fits(job.shift, job.length, kSlotBytes) ||
      job.purpose > Purpose::unmapped || job.peer >= context_.registers.device_count)
    return wrong(fmt::format("the record of job {} in guest memory makes no sense", device_.completed));
  return {};
}

bool AcceleratorDriver::plausible(const CompletionRecord& record, const JobRecord& job) const {
  if (record.id != job.id) return false;
  const bool may_fault = job.purpose == Purpose::to_peer || job.purpose == Purpose::from_peer ||
                         job.purpose == Purpose::unmapped;
  if (may_fault && record.status == static_cast<std::uint32_t>(JobStatus::dma_fault)) return true;
  if (record.status != static_cast<std::uint32_t>(JobStatus::ok)) return false;
  return static_cast<Operation>(job.operation) != Operation::hash || record.result == expected_hash(job);
}

Status AcceleratorDriver::judge(const CompletionRecord& record, const JobRecord& job) {
  if (record.id != job.id)
    return wrong(
        fmt::format("completion {}: expected id {:#x}, got {:#x}", device_.completed, job.id, record.id));
  if (job.purpose == Purpose::to_peer || job.purpose == Purpose::from_peer) return judge_peer(record, job);
  if (job.purpose == Purpose::unmapped) {
    if (record.status != static_cast<std::uint32_t>(JobStatus::dma_fault))
      return wrong(
          fmt::format("completion {} of a copy to {:#x}, where nothing is mapped: expected a DMA fault, "
                      "got status {}",
                      device_.completed, buffer_iova(device_.completed), record.status));
    ++context_.registers.iommu_faults;
    return {};
  }
  if (record.status != static_cast<std::uint32_t>(JobStatus::ok))
    return wrong(fmt::format("completion {} of operation {} on slot {}: expected status 0, got {}",
                             device_.completed, job.operation, job.slot, record.status));
  if (static_cast<Operation>(job.operation) == Operation::hash)
    if (const std::uint64_t expected = expected_hash(job); record.result != expected)
      return wrong(fmt::format(
          "XXH3 of {} bytes at {:#x} of device memory (slot {}, generation {}): expected {:#018x}, got "
          "{:#018x}",
          job.length, device_offset(job), job.slot, job.generation, expected, record.result));
  if (static_cast<Operation>(job.operation) == Operation::copy_out) return take_archive(job);
  return {};
}

Status AcceleratorDriver::take_archive(const JobRecord& job) {
  ArchiveRecord record;
  record.valid = 1;
  record.slot = job.slot;
  record.kind = job.kind;
  record.generation = job.generation;
  record.shift = static_cast<std::uint16_t>(job.shift);
  record.offset_length = ArchiveRecord::pack(job.offset, job.length);
  store_record(archive_record(job.archive), record);
  return check_archive(job.archive);
}

Status AcceleratorDriver::check_archive(std::uint32_t entry) {
  HANDOVER_ASSIGN(const auto record,
                  load_record<ArchiveRecord>(archive_record(entry), "the record of a copy"));
  if (record.valid == 0) return {};
  if (!range_fits(record.shift, record.length(), kSlotBytes))
    return wrong(fmt::format("the record of copy {} in guest memory makes no sense", entry));
  const Gpa at = archive(entry) + record.shift;
  const auto different = compare(content(record.slot, record.kind, record.generation), record.offset(),
                                 context_.ram.view(at, record.length()));
  if (!different) return {};
  return wrong(fmt::format(
      "{} bytes copied from slot {} (generation {}, offset {:#x}) to guest address {:#x}: at {:#x} expected "
      "{:#018x}, got {:#018x}",
      record.length(), record.slot, record.generation, record.offset(), at.value,
      at.value + different->offset, different->expected, different->got));
}

}  // namespace handover::vmm::synthetic
