#include "vmm/synthetic/program.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "vmm/intx_line.h"
#include "vmm/synthetic/edu.h"
#include "vmm/synthetic/uart.h"

namespace handover::vmm::synthetic {
namespace {

/// The guest's clock never jumps further in one step, however long the CPU was held up.
constexpr std::uint64_t kLongestStep = 100'000'000;
constexpr std::uint64_t kSecond = 1'000'000'000;
/// Pages in one step: keeps a step below a millisecond, and with it the time that a pause takes.
constexpr std::uint64_t kPagesPerStep = 64;

Layout layout_of(const Registers& registers) {
  auto layout =
      Layout::plan(registers.ram_size, registers.device_limit, registers.working_set_pages * kPageSize);
  if (!layout) std::abort();  // the caller has checked the registers
  return *layout;
}

}  // namespace

Program::Program(GuestMemory& memory, AddressSpace& bus, Registers& registers)
    : ram_(memory),
      bus_(bus),
      registers_(registers),
      layout_(layout_of(registers)),
      memory_(ram_, layout_, registers) {
}

AcceleratorDriver Program::driver(std::uint32_t index) {
  return AcceleratorDriver({ram_, bus_, layout_, registers_}, index);
}

Result<bool> Program::step(std::chrono::nanoseconds elapsed) {
  const std::uint64_t passed = std::min<std::uint64_t>(
      static_cast<std::uint64_t>(std::max<std::int64_t>(elapsed.count(), 0)), kLongestStep);
  registers_.clock += passed;
  ++registers_.steps;
  auto work = [&]() -> Status {
    if (!registers_.booted) HANDOVER_TRY(boot());
    HANDOVER_TRY(take_interrupts());
    HANDOVER_TRY(drive_devices(passed));
    return verification_ ? verify() : work_on_memory(passed);
  };
  if (auto done = work(); !done) {
    ++registers_.mismatches;
    return std::unexpected(std::move(done).error());
  }
  // A verification that waits for a device waits for its interrupt.
  if (verification_) return verification_->next_page < layout_.working_set_pages || verification_->done;
  return !memory_.filled() || memory_.behind();
}

Status Program::boot() {
  if (registers_.viommu) HANDOVER_TRY(IommuDriver(ram_, bus_, registers_).set_up());
  PciSetup pci(bus_);
  for (const std::uint32_t slot : pci.find(accelerator::kVendorId, accelerator::kDeviceId)) {
    if (registers_.devices.size() == registers_.device_limit) break;
    registers_.devices.emplace_back().slot = slot;
    registers_.device_count = static_cast<std::uint32_t>(registers_.devices.size());
    HANDOVER_TRY(driver(registers_.device_count - 1).set_up(pci));
  }
  for (const std::uint32_t slot : pci.find(kUartVendor, kUartDevice)) {
    registers_.uarts.emplace_back().slot = slot;
    registers_.uart_count = static_cast<std::uint32_t>(registers_.uarts.size());
    HANDOVER_TRY(uart(registers_.uart_count - 1).set_up(pci));
  }
  for (const std::uint32_t slot : pci.find(kEduVendor, kEduDevice)) {
    if (registers_.device_count + registers_.edu_count == registers_.device_limit) break;
    registers_.edus.emplace_back().slot = slot;
    registers_.edu_count = static_cast<std::uint32_t>(registers_.edus.size());
    HANDOVER_TRY(edu(registers_.edu_count - 1).set_up(pci));
  }
  registers_.booted = true;
  return {};
}

Status Program::take_interrupts() {
  for (std::uint32_t word = 0; word < registers_.interrupt_requests.size(); ++word) {
    while (registers_.interrupt_requests[word] != 0) {
      const auto bit = static_cast<std::uint32_t>(std::countr_zero(registers_.interrupt_requests[word]));
      registers_.interrupt_requests[word] &= registers_.interrupt_requests[word] - 1;
      const std::uint32_t vector = 64 * word + bit;
      ++registers_.interrupts;
      HANDOVER_TRY(take_interrupt(vector));
    }
  }
  return {};
}

Status Program::take_interrupt(std::uint32_t vector) {
  const std::uint32_t device = (vector - kFirstVector) / 2;
  if (vector >= kFirstVector && vector == device_vector(device) && device < registers_.device_count)
    return driver(device).on_interrupt();
  for (std::uint32_t i = 0; i < registers_.uart_count; ++i)
    if (vector == lines::kLineVector + registers_.uarts[i].slot) return uart(i).on_interrupt();
  for (std::uint32_t i = 0; i < registers_.edu_count; ++i)
    if (vector == lines::kLineVector + registers_.edus[i].slot) return edu(i).on_interrupt();
  ++registers_.spurious_interrupts;
  return {};
}

Status Program::drive_devices(std::uint64_t elapsed) {
  for (std::uint32_t i = 0; i < registers_.device_count; ++i) {
    HANDOVER_TRY(driver(i).poll());
    if (!verification_) HANDOVER_TRY(driver(i).submit(elapsed));
  }
  for (std::uint32_t i = 0; i < registers_.uart_count && !verification_; ++i)
    HANDOVER_TRY(uart(i).work(elapsed));
  for (std::uint32_t i = 0; i < registers_.edu_count; ++i)
    HANDOVER_TRY(edu(i).work(!verification_ && registers_.job_rate > 0));
  return {};
}

Status Program::work_on_memory(std::uint64_t elapsed) {
  if (!memory_.filled()) {
    memory_.fill(kPagesPerStep);
    return {};
  }
  memory_.write(elapsed, kPagesPerStep);
  HANDOVER_TRY(memory_.check_random_page());
  if (registers_.clock - registers_.table_checked < kSecond) return {};
  registers_.table_checked = registers_.clock;
  return memory_.check_table();
}

void Program::begin_verification() {
  verification_.emplace();
}

std::optional<VerifyReport> Program::verified() const {
  if (!verification_ || !verification_->done) return std::nullopt;
  return verification_->report;
}

Status Program::verify() {
  auto& state = *verification_;
  if (state.done) return {};
  if (state.next_page < layout_.working_set_pages) {
    if (state.next_page == 0) HANDOVER_TRY(memory_.check_table());
    HANDOVER_TRY(memory_.check_pages(state.next_page, kPagesPerStep));
    state.next_page = std::min(state.next_page + kPagesPerStep, layout_.working_set_pages);
    state.report.pages = state.next_page;
    return {};
  }
  const std::uint32_t devices = registers_.device_count + registers_.uart_count + registers_.edu_count;
  if (state.device < devices) HANDOVER_TRY(verify_device(state));
  state.done = state.device == devices;
  return {};
}

Status Program::verify_device(VerificationState& state) {
  bool running = false;
  if (state.device < registers_.device_count) {
    HANDOVER_ASSIGN(const bool through, driver(state.device).verify(state.of_device));
    if (!through) return {};
    state.report.device_slots += state.of_device.slots_checked;
    running = driver(state.device).running();
  } else if (const auto index = state.device - registers_.device_count; index < registers_.uart_count) {
    HANDOVER_TRY(uart(index).verify());
    running = uart(index).running();
  } else {
    auto of = edu(index - registers_.uart_count);
    HANDOVER_ASSIGN(const bool through, of.verify());
    if (!through) return {};
    running = of.running();
  }
  ++(running ? state.report.devices : state.report.devices_lost);
  state.of_device = {};
  ++state.device;
  return {};
}

Result<VerifyReport> Program::check_memory() const {
  HANDOVER_TRY(memory_.check_table());
  HANDOVER_TRY(memory_.check_pages(0, layout_.working_set_pages));
  VerifyReport report;
  report.pages = layout_.working_set_pages;
  return report;
}

}  // namespace handover::vmm::synthetic
