#include "vmm/synthetic/accelerator_driver.h"

#include <algorithm>
#include <atomic>

namespace handover::vmm::synthetic {

namespace reg = accelerator::reg;
using accelerator::CompletionRecord;
using accelerator::Descriptor;
using accelerator::Operation;

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kInterruptPatience = 2 * kSecond;
constexpr std::uint64_t kJobPatience = 30 * kSecond;
constexpr std::uint64_t kProbeEvery = kSecond / 4;
constexpr std::uint32_t kGone = 0xffffffff;

}  // namespace

AcceleratorDriver::AcceleratorDriver(const Context& context, std::uint32_t index)
    : context_(context),
      iommu_(context.ram, context.bus, context.registers),
      index_(index),
      device_(context.registers.devices[index]),
      area_(context.layout.device_area(index)) {
}

Status AcceleratorDriver::wrong(std::string what) const {
  return fail(Errc::mismatch, "accelerator {} (PCI slot {}): {}", index_, device_.slot, what);
}

bool AcceleratorDriver::gone() {
  if (read32(reg::kId) != kGone) return false;
  device_.state = DeviceRegisters::kLost;
  device_.completed = device_.submitted;
  return true;
}

Status AcceleratorDriver::set_up(PciSetup& pci) {
  device_.state = DeviceRegisters::kLost;  // until it works
  if (!pci.place_bars(device_.slot)) return wrong("its BARs do not fit below 4 GiB");
  device_.registers_bar = pci.bar(device_.slot, accelerator::kBarRegisters);
  device_.window_bar = pci.bar(device_.slot, accelerator::kBarWindow);
  const std::uint32_t id = read32(reg::kId);
  if (id == kGone) return {};
  if (id != accelerator::kIdValue)
    return wrong(fmt::format("its id register: expected {:#x}, got {:#x}", accelerator::kIdValue, id));
  if (pci.enable_msix(device_.slot, device_vector(index_), accelerator::kMsixVectors) == 0) {
    if (gone()) return {};
    return wrong("it has no MSI-X");
  }
  auto& bus = context_.bus;
  const Gpa regs{device_.registers_bar};
  device_.memory_size = bus.load<std::uint64_t>(regs + reg::kMemorySize);
  if (device_.memory_size < kPageSize)
    return wrong(fmt::format("it has {} bytes of memory", device_.memory_size));

  for (std::uint32_t slot = 0; slot < kMaxSlots; ++slot)
    store_record(slot_record(slot), SlotRecord{});
  for (std::uint32_t page = 0; page < kWindowPages; ++page)
    store_record(window_record(page), SlotRecord{});
  for (std::uint32_t peer = 0; peer <= kStaging; ++peer)
    store_record(peer_record(peer), PeerRecord{});
  for (std::uint32_t entry = 0; entry < kArchiveEntries; ++entry)
    store_record(archive_record(entry), ArchiveRecord{});
  for (std::uint32_t entry = 0; entry < kRingEntries; ++entry)
    context_.ram.store(area_ + DeviceArea::kCompletion + entry * sizeof(CompletionRecord),
                       CompletionRecord{});

  bus.store<std::uint32_t>(regs + reg::kControl, 0);
  HANDOVER_ASSIGN(const bool mapped, set_up_rings());
  if (!mapped) return {};
  bus.store<std::uint32_t>(regs + reg::kRingEntries, kRingEntries);
  bus.store<std::uint32_t>(regs + reg::kControl,
                           accelerator::kControlEnable | accelerator::kControlInterrupt);
  const std::uint32_t status = read32(reg::kStatus);
  if (status == kGone) return {};
  if ((status & accelerator::kStatusError) != 0 || (status & accelerator::kStatusEnabled) == 0)
    return wrong(fmt::format("it refuses its rings (status {:#x})", status));
  device_.state = DeviceRegisters::kRunning;
  device_.last_progress = device_.last_probe = context_.registers.clock;
  return {};
}

void AcceleratorDriver::put_job(JobRecord job) {
  job.id = mix(seed(), index_, device_.submitted);
  Descriptor descriptor{};
  descriptor.id = job.id;
  descriptor.operation = job.operation;
  descriptor.device_offset = device_offset(job);
  descriptor.length = job.length;
  const Content bytes = content(job.slot, job.kind, job.generation);
  const bool with_peer = job.purpose == Purpose::to_peer || job.purpose == Purpose::from_peer;
  switch (static_cast<Operation>(job.operation)) {
    case Operation::copy_in: {
      if (with_peer) break;
      const Gpa from = source(device_.submitted);
      generate(bytes, job.offset, context_.ram.view(from, job.length));
      context_.ram.written(from, job.length);
      descriptor.guest_address = reach(device_.submitted, job, from);
      break;
    }
    case Operation::copy_out:
      descriptor.guest_address = reach(device_.submitted, job, archive(job.archive) + job.shift);
      break;
    case Operation::fill:
      descriptor.pattern = bytes.key;
      break;
    case Operation::hash:
      break;
  }
  if (with_peer) {
    descriptor.guest_address = peer_page(job.peer).value;
    device_.peer_tried = context_.registers.clock;
  }
  if (job.purpose != Purpose::own) device_.peer_job = device_.submitted + 1;
  store_record(job_record(device_.submitted), job);
  context_.ram.store(area_ + DeviceArea::kSubmission + device_.submitted % kRingEntries * sizeof(Descriptor),
                     descriptor);
  if (outstanding() == 0) device_.last_progress = context_.registers.clock;
  ++device_.submitted;
  ++context_.registers.jobs_submitted;
}

Status AcceleratorDriver::ring_doorbell() {
  HANDOVER_ASSIGN(const bool there, flush_iommu());
  if (!there) return {};
  context_.bus.store<std::uint32_t>(Gpa{device_.registers_bar + reg::kDoorbell},
                                    static_cast<std::uint32_t>(device_.submitted));
  return {};
}

AcceleratorDriver::Next AcceleratorDriver::peek(CompletionRecord& record) const {
  const Gpa at =
      area_ + DeviceArea::kCompletion + device_.completed % kRingEntries * sizeof(CompletionRecord);
  record = context_.ram.load<CompletionRecord>(at);
  const auto next = static_cast<std::uint32_t>(device_.completed + 1);
  const std::uint32_t old = device_.completed < kRingEntries ? 0 : next - kRingEntries;
  if (record.sequence == old) return Next::nothing;
  if (record.sequence != next) return Next::foreign;
  // The rest of the record was written before or with its sequence number.
  std::atomic_thread_fence(std::memory_order_acquire);
  record = context_.ram.load<CompletionRecord>(at);
  return Next::completion;
}

Status AcceleratorDriver::complete_all() {
  for (;;) {
    CompletionRecord record;
    const Next next = peek(record);
    if (next == Next::nothing) return {};
    if (next == Next::foreign)
      return wrong(fmt::format("completion {}: expected sequence {}, got {}", device_.completed,
                               static_cast<std::uint32_t>(device_.completed + 1), record.sequence));
    if (outstanding() == 0)
      return wrong(fmt::format("a completion that nobody asked for: id {:#x}, sequence {}", record.id,
                               record.sequence));
    HANDOVER_ASSIGN(const auto job,
                    load_record<JobRecord>(job_record(device_.completed), "the record of a job"));
    HANDOVER_TRY(check_sense(job));
    if (!plausible(record, job)) {
      // Perhaps we see half of a record.  The device counts a completion when all of it is written; if it has
      // not yet, its interrupt is still to come.
      const std::uint32_t counted = read32(reg::kCompleted);
      if (counted == kGone && gone()) return {};
      if (static_cast<std::int32_t>(counted - record.sequence) < 0) return {};
      peek(record);
    }
    // Before the CPU looks at what it brought, as a driver does.
    HANDOVER_ASSIGN(const bool there, forget_buffers(device_.completed + 1, false));
    if (!there) return {};
    HANDOVER_TRY(judge(record, job));
    ++device_.completed;
    ++context_.registers.jobs_completed;
    device_.last_progress = context_.registers.clock;
  }
}

Status AcceleratorDriver::on_interrupt() {
  if (!running()) return {};
  const std::uint64_t before = device_.completed;
  HANDOVER_TRY(complete_all());
  if (device_.completed == before) ++context_.registers.spurious_interrupts;
  device_.unseen_since = 0;
  return {};
}

Status AcceleratorDriver::poll() {
  if (!running()) return {};
  const std::uint64_t now = context_.registers.clock;
  CompletionRecord record;
  if (peek(record) == Next::nothing) {
    device_.unseen_since = 0;
  } else if (device_.unseen_since == 0) {
    device_.unseen_since = std::max<std::uint64_t>(now, 1);
  } else if (now - device_.unseen_since > kInterruptPatience) {
    ++context_.registers.interrupts_lost;
    device_.unseen_since = 0;
    HANDOVER_TRY(complete_all());
  }
  if (now - device_.last_probe > kProbeEvery) {
    device_.last_probe = now;
    if (gone()) return {};
  }
  if (outstanding() > 0 && now - device_.last_progress > kJobPatience)
    return wrong(fmt::format("job {} (id {:#x}) was never completed; the device says that {} of {} are",
                             device_.completed, mix(seed(), index_, device_.completed),
                             read32(reg::kCompleted), device_.submitted));
  return {};
}

}  // namespace handover::vmm::synthetic
