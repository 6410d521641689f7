#include "devices/accelerator/device_record.h"

#include <concepts>

#include "handover/base/byte_reader.h"
#include "handover/base/byte_writer.h"

namespace handover::accelerator {
namespace {

class Saver {
 public:
  template <std::unsigned_integral T>
  void field(T value) {
    out.integer(value);
  }
  void field(bool value) { out.u8(value ? 1 : 0); }
  void field(JobStatus value) { out.u32(static_cast<std::uint32_t>(value)); }
  template <std::size_t N>
  void field(const std::array<std::byte, N>& bytes) {
    out.bytes(bytes);
  }
  LeWriter out;
};

class Loader {
 public:
  explicit Loader(std::span<const std::byte> bytes) : in_(bytes) {}

  template <std::unsigned_integral T>
  void field(T& value) {
    if (!status) return;
    auto read = in_.integer<T>();
    if (read)
      value = *read;
    else
      status = std::unexpected(std::move(read).error());
  }
  void field(bool& value) {
    std::uint8_t number = 0;
    field(number);
    if (status && number > 1) status = fail(Errc::protocol, "a flag is {}", number);
    value = number == 1;
  }
  void field(JobStatus& value) {
    std::uint32_t number = 0;
    field(number);
    if (status && number > static_cast<std::uint32_t>(JobStatus::dma_fault))
      status = fail(Errc::protocol, "job status {} is none", number);
    if (status) value = static_cast<JobStatus>(number);
  }
  template <std::size_t N>
  void field(std::array<std::byte, N>& bytes) {
    for (std::byte& byte : bytes) {
      std::uint8_t number = 0;
      field(number);
      byte = std::byte{number};
    }
  }
  std::size_t left() const { return in_.remaining(); }

  Status status;

 private:
  LeReader in_;
};

/// The record, field by field: both directions are made from this.
template <class Archive, class Record>
void describe(Archive& archive, Record& record, auto& job, auto& has_job) {
  archive.field(record.config);
  archive.field(record.msix);

  auto& registers = record.engine.registers;
  archive.field(registers.control);
  archive.field(registers.ring_entries);
  archive.field(registers.ring_address);
  archive.field(registers.completion_address);
  archive.field(registers.submitted);
  archive.field(registers.completed);
  archive.field(registers.error);
  archive.field(registers.jobs_done);
  archive.field(registers.interrupts_raised);

  archive.field(has_job);
  archive.field(job.descriptor.id);
  archive.field(job.descriptor.operation);
  archive.field(job.descriptor.guest_address);
  archive.field(job.descriptor.device_offset);
  archive.field(job.descriptor.length);
  archive.field(job.descriptor.pattern);
  archive.field(job.bytes_done);
  archive.field(job.status);
  archive.field(job.result);
  archive.field(job.executed);
}

Status check_registers(const Registers& registers) {
  if ((registers.control & ~(kControlEnable | kControlInterrupt)) != 0)
    return fail(Errc::protocol, "control register {:#x} has unknown bits", registers.control);
  if (!registers.enabled() && registers.error) return fail(Errc::protocol, "a disabled queue is in error");
  if (!registers.enabled() || registers.error) return {};
  if (!registers.ring_usable())
    return fail(Errc::protocol, "a queue of {} entries is enabled", registers.ring_entries);
  if (registers.submitted - registers.completed > registers.ring_entries)
    return fail(Errc::protocol, "{} descriptors submitted and {} completed in a ring of {}",
                registers.submitted, registers.completed, registers.ring_entries);
  return {};
}

Status check_job(const EngineState& engine, std::uint64_t memory_size) {
  if (!engine.job) return {};
  const Job& job = *engine.job;
  if (!engine.registers.has_work()) return fail(Errc::protocol, "a job is in flight and none is submitted");
  if (job.bytes_done > job.descriptor.length)
    return fail(Errc::protocol, "{} of {} bytes of a job are done", job.bytes_done, job.descriptor.length);
  if (!job.executed && job.status != JobStatus::ok)
    return fail(Errc::protocol, "a failed job is still being executed");
  if (job.executed && job.status == JobStatus::ok && job.bytes_done != job.descriptor.length)
    return fail(Errc::protocol, "a job is done after {} of {} bytes", job.bytes_done, job.descriptor.length);
  // What a hash had seen is not in the stream.
  if (!job.executed && job.bytes_done != 0 &&
      static_cast<Operation>(job.descriptor.operation) == Operation::hash)
    return fail(Errc::protocol, "a hash goes on at byte {}", job.bytes_done);
  if (job.bytes_done != 0 && !range_fits(job.descriptor.device_offset, job.descriptor.length, memory_size))
    return fail(Errc::protocol, "a job is under way outside of device memory");
  return {};
}

}  // namespace

std::size_t DeviceRecord::encoded_size() {
  static const std::size_t size = DeviceRecord{}.encode().size();
  return size;
}

std::vector<std::byte> DeviceRecord::encode() const {
  Saver saver;
  const Job job = engine.job.value_or(Job{});
  const bool has_job = engine.job.has_value();
  describe(saver, *this, job, has_job);
  return saver.out.take();
}

Result<DeviceRecord> DeviceRecord::decode(std::span<const std::byte> bytes, std::uint64_t memory_size) {
  DeviceRecord record;
  Job job;
  bool has_job = false;
  Loader loader(bytes);
  describe(loader, record, job, has_job);
  HANDOVER_TRY_CONTEXT(loader.status, "device record");
  if (loader.left() != 0) return fail(Errc::protocol, "{} bytes follow the device record", loader.left());
  if (has_job) record.engine.job = job;
  ConfigSpace config;
  HANDOVER_TRY(config.load(record.config));
  HANDOVER_TRY_CONTEXT(check_registers(record.engine.registers), "device record");
  HANDOVER_TRY_CONTEXT(check_job(record.engine, memory_size), "device record");
  return record;
}

}  // namespace handover::accelerator
