#include "devices/accelerator/job.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "handover/base/byte_order.h"

namespace handover::accelerator {
namespace {

bool known(Operation operation) {
  return operation == Operation::copy_in || operation == Operation::copy_out ||
         operation == Operation::fill || operation == Operation::hash;
}

bool touches_guest(Operation operation) {
  return operation == Operation::copy_in || operation == Operation::copy_out;
}

JobStatus check(const Descriptor& descriptor, std::uint64_t memory_size) {
  const auto operation = static_cast<Operation>(descriptor.operation);
  if (!known(operation)) return JobStatus::bad_operation;
  if (!range_fits(descriptor.device_offset, descriptor.length, memory_size)) return JobStatus::out_of_range;
  if (touches_guest(operation) &&
      !range_fits(descriptor.guest_address, descriptor.length, std::numeric_limits<std::uint64_t>::max()))
    return JobStatus::dma_fault;
  return JobStatus::ok;
}

// `phase`: how many bytes of the pattern lie before `to`.
void fill(std::span<std::byte> to, std::uint64_t pattern, std::uint64_t phase) {
  std::byte bytes[sizeof pattern];
  store_le(bytes, pattern);
  std::rotate(bytes, bytes + phase % sizeof pattern, bytes + sizeof pattern);
  std::size_t at = 0;
  for (; at + sizeof bytes <= to.size(); at += sizeof bytes)
    std::memcpy(to.data() + at, bytes, sizeof bytes);
  std::memcpy(to.data() + at, bytes, to.size() - at);
}

}  // namespace

Descriptor decode_descriptor(std::span<const std::byte, sizeof(Descriptor)> bytes) {
  Descriptor out{};
  out.id = load_le<std::uint64_t>(&bytes[offsetof(Descriptor, id)]);
  out.operation = load_le<std::uint32_t>(&bytes[offsetof(Descriptor, operation)]);
  out.guest_address = load_le<std::uint64_t>(&bytes[offsetof(Descriptor, guest_address)]);
  out.device_offset = load_le<std::uint64_t>(&bytes[offsetof(Descriptor, device_offset)]);
  out.length = load_le<std::uint64_t>(&bytes[offsetof(Descriptor, length)]);
  out.pattern = load_le<std::uint64_t>(&bytes[offsetof(Descriptor, pattern)]);
  return out;
}

void encode_record(const CompletionRecord& record, std::span<std::byte, sizeof(CompletionRecord)> bytes) {
  store_le(&bytes[offsetof(CompletionRecord, id)], record.id);
  store_le(&bytes[offsetof(CompletionRecord, status)], record.status);
  store_le(&bytes[offsetof(CompletionRecord, sequence)], record.sequence);
  store_le(&bytes[offsetof(CompletionRecord, result)], record.result);
  store_le(&bytes[offsetof(CompletionRecord, reserved)], record.reserved);
}

bool client_is_gone(const Error& error) {
  return error.code() == Errc::closed || error.code() == Errc::cancelled;
}

JobRunner::JobRunner(DeviceMemory& memory) : memory_(memory), hash_(XXH3_createState()) {
}

Status JobRunner::step(Job& job, vfio_user::DeviceBus& bus) {
  const JobStatus verdict = check(job.descriptor, memory_.size());
  if (verdict != JobStatus::ok) {
    job.status = verdict;
    job.executed = true;
    return {};
  }
  const std::uint64_t length = std::min(kPiece, job.descriptor.length - job.bytes_done);
  if (auto done = do_piece(job, length, bus); !done) {
    if (client_is_gone(done.error())) return done;
    job.status = JobStatus::dma_fault;
    job.executed = true;
    return {};
  }
  job.bytes_done += length;
  if (job.bytes_done == job.descriptor.length) {
    if (static_cast<Operation>(job.descriptor.operation) == Operation::hash)
      job.result = XXH3_64bits_digest(hash_.get());
    job.executed = true;
  }
  return {};
}

Status JobRunner::do_piece(Job& job, std::uint64_t length, vfio_user::DeviceBus& bus) {
  const Descriptor& what = job.descriptor;
  const std::uint64_t offset = what.device_offset + job.bytes_done;
  const Iova guest{what.guest_address + job.bytes_done};
  const auto operation = static_cast<Operation>(what.operation);
  if (operation == Operation::hash && job.bytes_done == 0) XXH3_64bits_reset(hash_.get());
  if (length == 0) return {};
  switch (operation) {
    case Operation::copy_in: {
      DeviceMemory::Write write(memory_, offset, length);
      return bus.dma_read(guest, write.bytes());
    }
    case Operation::copy_out:
      return bus.dma_write(guest, memory_.view(offset, length));
    case Operation::fill: {
      DeviceMemory::Write write(memory_, offset, length);
      fill(write.bytes(), what.pattern, job.bytes_done);
      return {};
    }
    case Operation::hash:
      XXH3_64bits_update(hash_.get(), memory_.view(offset, length).data(), length);
      return {};
  }
  return fail(Errc::invalid_argument, "operation {} is none", what.operation);
}

}  // namespace handover::accelerator
