#include "vmm/synthetic/registers.h"

#include "vmm/pci_bus.h"
#include "vmm/synthetic/content.h"
#include "vmm/synthetic/uart.h"

namespace handover::vmm::synthetic {

std::uint64_t Registers::next_random() {
  random += 0x9e3779b97f4a7c15;
  return mix(random);
}

// Version 2 lays the guest's memory out differently (P2P) and version 3 has an IOMMU's state for each device,
// so that earlier ones cannot be gone on with.  Version 4 knows other devices than accelerators.
const std::shared_ptr<const vmstate::Description>& Registers::description() {
  static const auto device = vmstate::Describe<DeviceRegisters>("synthetic-vcpu-device", 3, 3)
                                 .field("state", &DeviceRegisters::state)
                                 .field("slot", &DeviceRegisters::slot)
                                 .field("registers_bar", &DeviceRegisters::registers_bar)
                                 .field("window_bar", &DeviceRegisters::window_bar)
                                 .field("memory_size", &DeviceRegisters::memory_size)
                                 .field("submitted", &DeviceRegisters::submitted)
                                 .field("completed", &DeviceRegisters::completed)
                                 .field("generation", &DeviceRegisters::generation)
                                 .field("job_credit", &DeviceRegisters::job_credit)
                                 .field("last_progress", &DeviceRegisters::last_progress)
                                 .field("last_probe", &DeviceRegisters::last_probe)
                                 .field("unseen_since", &DeviceRegisters::unseen_since)
                                 .field("window_writes", &DeviceRegisters::window_writes)
                                 .field("peer_job", &DeviceRegisters::peer_job)
                                 .field("peer_tried", &DeviceRegisters::peer_tried)
                                 .field("unmapped", &DeviceRegisters::unmapped)
                                 .done();
  static const auto uart = vmstate::Describe<UartRegisters>("synthetic-vcpu-uart", 4, 4)
                               .field("state", &UartRegisters::state)
                               .field("slot", &UartRegisters::slot)
                               .field("ports", &UartRegisters::ports)
                               .field("sent", &UartRegisters::sent)
                               .field("received", &UartRegisters::received)
                               .field("rounds", &UartRegisters::rounds)
                               .field("credit", &UartRegisters::credit)
                               .field("waiting_since", &UartRegisters::waiting_since)
                               .done();
  static const auto edu = vmstate::Describe<EduRegisters>("synthetic-vcpu-edu", 4, 4)
                              .field("state", &EduRegisters::state)
                              .field("slot", &EduRegisters::slot)
                              .field("bar", &EduRegisters::bar)
                              .field("phase", &EduRegisters::phase)
                              .field("rounds", &EduRegisters::rounds)
                              .field("since", &EduRegisters::since)
                              .done();
  static const auto registers =
      vmstate::Describe<Registers>("synthetic-vcpu", 4, 3)
          .field("ram_size", &Registers::ram_size)
          .field("working_set_pages", &Registers::working_set_pages)
          .field("device_limit", &Registers::device_limit)
          .field("seed", &Registers::seed)
          .field("dirty_rate", &Registers::dirty_rate)
          .field("job_rate", &Registers::job_rate)
          .field("p2p", &Registers::p2p)
          .field("viommu", &Registers::viommu)
          .field("clock", &Registers::clock)
          .field("steps", &Registers::steps)
          .field("random", &Registers::random)
          .field("booted", &Registers::booted)
          .field("fill_next", &Registers::fill_next)
          .field("write_credit", &Registers::write_credit)
          .field("pages_written", &Registers::pages_written)
          .field("table_sum", &Registers::table_sum)
          .field("table_checked", &Registers::table_checked)
          .field("pages_checked", &Registers::pages_checked)
          .field("jobs_submitted", &Registers::jobs_submitted)
          .field("jobs_completed", &Registers::jobs_completed)
          .field("p2p_jobs", &Registers::p2p_jobs)
          .field("p2p_faults", &Registers::p2p_faults)
          .field("iommu_tail", &Registers::iommu_tail)
          .field("iommu_mappings", &Registers::iommu_mappings)
          .field("iommu_faults", &Registers::iommu_faults)
          .field("interrupts", &Registers::interrupts)
          .field("spurious_interrupts", &Registers::spurious_interrupts)
          .field("interrupts_lost", &Registers::interrupts_lost)
          .field("mismatches", &Registers::mismatches)
          .field("interrupt_requests", &Registers::interrupt_requests)
          .field("device_count", &Registers::device_count)
          .sized_array("devices", &Registers::devices, &Registers::device_count, kMaxDevices, device)
          .field("uart_count", &Registers::uart_count, {.since = 4})
          .sized_array("uarts", &Registers::uarts, &Registers::uart_count, kMaxDevices, uart, {.since = 4})
          .field("edu_count", &Registers::edu_count, {.since = 4})
          .sized_array("edus", &Registers::edus, &Registers::edu_count, kMaxDevices, edu, {.since = 4})
          .done();
  return registers;
}

namespace {

Status check_uart(const UartRegisters& uart) {
  if (uart.state != DeviceRegisters::kRunning && uart.state != DeviceRegisters::kLost)
    return fail(Errc::protocol, "the driver of a UART is in state {}, which does not exist", uart.state);
  if (uart.slot == 0 || uart.slot >= kPciSlots)
    return fail(Errc::protocol, "a UART is in PCI slot {}", uart.slot);
  if (uart.received > uart.sent || uart.sent - uart.received > kUartFifo)
    return fail(Errc::protocol, "{} bytes went to a UART and {} came back", uart.sent, uart.received);
  return {};
}

Status check_edu(const EduRegisters& edu) {
  if (edu.state != DeviceRegisters::kRunning && edu.state != DeviceRegisters::kLost)
    return fail(Errc::protocol, "the driver of an edu is in state {}, which does not exist", edu.state);
  if (edu.slot == 0 || edu.slot >= kPciSlots)
    return fail(Errc::protocol, "an edu is in PCI slot {}", edu.slot);
  if (edu.phase > EduRegisters::kFromDevice)
    return fail(Errc::protocol, "an edu is in phase {}, which does not exist", edu.phase);
  return {};
}

}  // namespace

Status Registers::check(std::uint64_t ram_size_here) const {
  if (ram_size != ram_size_here)
    return fail(Errc::mismatch, "the guest was started with {} MiB of RAM and this machine has {} MiB",
                ram_size / MiB, ram_size_here / MiB);
  if (working_set_pages == 0 || working_set_pages > ram_size / kPageSize)
    return fail(Errc::protocol, "a working set of {} pages does not fit the guest's RAM", working_set_pages);
  HANDOVER_ASSIGN(const Layout layout, Layout::plan(ram_size, device_limit, working_set_pages * kPageSize));
  if (fill_next > layout.working_set_pages)
    return fail(Errc::protocol, "{} pages are said to be filled of {}", fill_next, layout.working_set_pages);
  if (device_count > device_limit || devices.size() != device_count)
    return fail(Errc::protocol, "{} devices are driven, at most {} can be", device_count, device_limit);
  for (const auto& device : devices) {
    if (device.state != DeviceRegisters::kRunning && device.state != DeviceRegisters::kLost)
      return fail(Errc::protocol, "a driver is in state {}, which does not exist", device.state);
    if (device.slot == 0 || device.slot >= kPciSlots)
      return fail(Errc::protocol, "a device is in PCI slot {}", device.slot);
    if (device.state == DeviceRegisters::kRunning && device.memory_size < kPageSize)
      return fail(Errc::protocol, "a device has {} bytes of memory", device.memory_size);
    if (device.completed > device.submitted || device.submitted - device.completed > kMaxInFlight)
      return fail(Errc::protocol, "{} jobs are submitted and {} completed", device.submitted,
                  device.completed);
    if (viommu && device.state == DeviceRegisters::kRunning &&
        (device.unmapped > device.completed || device.completed - device.unmapped > kMaxDeferred))
      return fail(Errc::protocol, "{} jobs are completed and the buffers of {} are unmapped",
                  device.completed, device.unmapped);
    if (device.peer_job > device.submitted)
      return fail(Errc::protocol, "job {} is said to touch a peer and {} are submitted", device.peer_job,
                  device.submitted);
  }
  if (uarts.size() != uart_count || edus.size() != edu_count ||
      device_count + uart_count + edu_count > kMaxDevices || device_count + edu_count > device_limit)
    return fail(Errc::protocol,
                "{} accelerators, {} UARTs and {} other devices are driven, at most {} can be", device_count,
                uart_count, edu_count, kMaxDevices);
  for (const auto& uart : uarts)
    HANDOVER_TRY(check_uart(uart));
  for (const auto& edu : edus)
    HANDOVER_TRY(check_edu(edu));
  return {};
}

}  // namespace handover::vmm::synthetic
