#include "vmm/synthetic/vcpu.h"

#include <pthread.h>

#include <utility>

#include "vmm/pci_bus.h"

namespace handover::vmm::synthetic {

using Clock = std::chrono::steady_clock;

namespace {

/// How long an idle CPU sleeps when no interrupt comes: the timer tick of the guest.
constexpr std::chrono::milliseconds kTick{1};

}  // namespace

Result<std::unique_ptr<SyntheticVcpu>> SyntheticVcpu::create(std::uint32_t index, GuestMemory& memory,
                                                             AddressSpace& bus, const GuestOptions& options,
                                                             std::uint32_t devices,
                                                             const Platform& platform) {
  HANDOVER_ASSIGN(const Layout layout, Layout::plan(memory.size(), devices, options.working_set));
  Registers registers;
  registers.ram_size = memory.size();
  registers.working_set_pages = layout.working_set_pages;
  registers.device_limit = devices;
  registers.p2p = platform.p2p;
  registers.viommu = platform.viommu;
  registers.seed = options.seed;
  registers.random = options.seed;
  registers.dirty_rate = options.dirty_rate;
  registers.job_rate = options.job_rate;
  if (!options.fill) registers.fill_next = layout.working_set_pages;
  return std::unique_ptr<SyntheticVcpu>(new SyntheticVcpu(index, memory, bus, std::move(registers)));
}

SyntheticVcpu::SyntheticVcpu(std::uint32_t index, GuestMemory& memory, AddressSpace& bus, Registers registers)
    : index_(index), memory_(memory), bus_(bus), registers_(std::move(registers)) {
  program_.emplace(memory_, bus_, registers_);
  publish();
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), name().c_str());
    run();
  });
}

SyntheticVcpu::~SyntheticVcpu() {
  {
    std::lock_guard lock(mutex_);
    quit_ = true;
    wanted_ = false;
  }
  changed_.notify_all();
  {
    std::lock_guard lock(idle_mutex_);
  }
  idle_.notify_all();
  thread_.join();
}

void SyntheticVcpu::resume() {
  {
    std::lock_guard lock(mutex_);
    if (!panic_.empty()) return;
    wanted_ = true;
  }
  changed_.notify_all();
}

void SyntheticVcpu::pause() {
  std::unique_lock lock(mutex_);
  wanted_ = false;
  {
    std::lock_guard idle(idle_mutex_);
  }
  idle_.notify_all();
  changed_.wait(lock, [this] { return parked_; });
}

void SyntheticVcpu::on_panic(std::function<void(std::string reason)> handler) {
  std::lock_guard lock(mutex_);
  on_panic_ = std::move(handler);
}

void SyntheticVcpu::message(std::uint64_t address, std::uint32_t data) {
  // Destination in bits 12..19 of the address, vector in bits 0..7 of the data.
  if ((address & kMessageMask) != kMessageBase || (address >> 12 & 0xff) != index_) return;
  const std::uint32_t vector = data & 0xff;
  interrupt_requests_[vector / 64].fetch_or(std::uint64_t{1} << (vector % 64), std::memory_order_release);
  {
    std::lock_guard lock(idle_mutex_);
  }
  idle_.notify_all();
}

void SyntheticVcpu::take_interrupt_requests() {
  for (std::size_t i = 0; i < interrupt_requests_.size(); ++i)
    registers_.interrupt_requests[i] |= interrupt_requests_[i].exchange(0, std::memory_order_acquire);
}

void SyntheticVcpu::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return quit_ || (wanted_ && panic_.empty()); });
    if (quit_) return;
    parked_ = false;
    lock.unlock();
    execute();
    lock.lock();
    parked_ = true;
    changed_.notify_all();
  }
}

void SyntheticVcpu::execute() {
  auto before = Clock::now();
  while (wanted_.load(std::memory_order_acquire)) {
    if (verify_changed_.exchange(false, std::memory_order_acq_rel)) handle_verification();
    take_interrupt_requests();
    const auto now = Clock::now();
    const auto more = program_->step(now - std::exchange(before, now));
    if (!more) return panic(more.error().to_string());
    publish();
    if (program_->verified()) handle_verification();
    if (!*more) rest();
  }
  take_interrupt_requests();
}

void SyntheticVcpu::rest() {
  std::unique_lock lock(idle_mutex_);
  idle_.wait_for(lock, kTick, [this] {
    for (const auto& word : interrupt_requests_)
      if (word.load(std::memory_order_relaxed) != 0) return true;
    return !wanted_ || verify_changed_;
  });
}

void SyntheticVcpu::panic(const std::string& reason) {
  publish();
  std::function<void(std::string)> handler;
  {
    std::lock_guard lock(mutex_);
    panic_ = reason;
    wanted_ = false;
    if (verify_ != Verify::none) {
      verify_result_ = fail(Errc::mismatch, "{}", reason);
      verify_ = Verify::finished;
    }
    handler = on_panic_;
  }
  changed_.notify_all();
  // Not parked yet: whoever pauses the CPU to take it down waits until the handler has returned.
  if (handler) handler(reason);
}

void SyntheticVcpu::handle_verification() {
  {
    std::lock_guard lock(mutex_);
    if (verify_ == Verify::asked) {
      program_->begin_verification();
      verify_ = Verify::going;
    } else if (verify_ == Verify::none) {
      program_->end_verification();  // nobody waits any more
    } else if (auto report = program_->verified(); report && verify_ == Verify::going) {
      program_->end_verification();
      verify_result_ = *report;
      verify_ = Verify::finished;
    }
  }
  changed_.notify_all();
}

Result<VerifyReport> SyntheticVcpu::verify(std::chrono::milliseconds timeout, const CancelToken& cancel) {
  // Made before the lock is taken: it takes it itself, on the thread that cancels.
  const std::stop_callback wake(cancel.stop(), [this] {
    {
      std::lock_guard held(mutex_);
    }
    changed_.notify_all();
  });
  const auto deadline = Clock::now() + timeout;
  std::unique_lock lock(mutex_);
  if (!panic_.empty()) return fail(Errc::mismatch, "the guest has panicked: {}", panic_);
  if (verify_ != Verify::none) return fail(Errc::state, "a verification of {} is under way already", name());
  if (parked_ && !wanted_) return program_->check_memory();
  verify_ = Verify::asked;
  verify_result_.reset();
  verify_changed_ = true;
  const bool finished = changed_.wait_until(
      lock, deadline, [&] { return verify_ == Verify::finished || quit_ || cancel.cancelled(); });
  verify_ = Verify::none;
  if (verify_result_) return *std::exchange(verify_result_, std::nullopt);
  verify_changed_ = true;
  HANDOVER_TRY(cancel.check());
  if (finished) return fail(Errc::cancelled, "{} was shut down while it was verified", name());
  return fail(Errc::timeout,
              "{} was not verified within {} ms; is the machine running, are its devices answering?", name(),
              timeout.count());
}

GuestReport SyntheticVcpu::report() const {
  GuestReport report;
  {
    std::lock_guard lock(report_mutex_);
    report = report_;
  }
  std::lock_guard lock(mutex_);
  report.panic = panic_;
  return report;
}

void SyntheticVcpu::publish() {
  GuestReport report;
  const Registers& from = registers_;
  report.seconds = static_cast<double>(from.clock) / 1e9;
  report.steps = from.steps;
  report.working_set_bytes = from.working_set_pages * kPageSize;
  report.pages_filled = from.fill_next;
  report.pages_written = from.pages_written;
  report.pages_checked = from.pages_checked;
  report.jobs_submitted = from.jobs_submitted;
  report.jobs_completed = from.jobs_completed;
  report.p2p_jobs = from.p2p_jobs;
  report.p2p_faults = from.p2p_faults;
  report.iommu_mappings = from.iommu_mappings;
  report.iommu_faults = from.iommu_faults;
  report.interrupts = from.interrupts;
  report.spurious_interrupts = from.spurious_interrupts;
  report.interrupts_lost = from.interrupts_lost;
  report.mismatches = from.mismatches;
  report.devices = from.device_count + from.uart_count + from.edu_count;
  const auto count = [&](std::uint32_t index, std::uint32_t state) {
    if (state != DeviceRegisters::kLost) return;
    ++report.devices_lost;
    report.lost_mask |= 1u << index;
  };
  for (std::uint32_t i = 0; i < from.device_count; ++i)
    count(i, from.devices[i].state);
  for (std::uint32_t i = 0; i < from.uart_count; ++i) {
    count(from.device_count + i, from.uarts[i].state);
    report.uart_bytes += from.uarts[i].received;
  }
  for (std::uint32_t i = 0; i < from.edu_count; ++i) {
    count(from.device_count + from.uart_count + i, from.edus[i].state);
    // Of the round that is under way nothing is known yet.
    report.edu_rounds += from.edus[i].rounds - (from.edus[i].phase == EduRegisters::kIdle ? 0 : 1);
  }
  std::lock_guard lock(report_mutex_);
  report_ = report;
}

Status SyntheticVcpu::State::save_state(StreamWriter& out) {
  cpu_.take_interrupt_requests();
  return StateItem::save_state(out);
}

Status SyntheticVcpu::State::load_state(StreamReader& in, std::uint32_t version) {
  Registers loaded;
  HANDOVER_TRY(description()->load(&loaded, in, version));
  HANDOVER_TRY_CONTEXT(loaded.check(cpu_.memory_.size()), "registers of {}", cpu_.name());
  cpu_.registers_ = std::move(loaded);
  for (auto& word : cpu_.interrupt_requests_)
    word = 0;
  cpu_.program_.emplace(cpu_.memory_, cpu_.bus_, cpu_.registers_);
  cpu_.publish();
  return {};
}

}  // namespace handover::vmm::synthetic
