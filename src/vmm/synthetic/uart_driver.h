#pragma once

#include <cstdint>
#include <string>

#include "vmm/address_space.h"
#include "vmm/synthetic/pci_setup.h"
#include "vmm/synthetic/registers.h"

namespace handover::vmm::synthetic {

/// The guest's driver of one UART that gives back what it is sent.
///
/// In rounds, at the rate of jobs: what the FIFO holds is read and compared with what was sent, the registers
/// are compared with what was written to them, and a new burst is sent, of which an interrupt must tell.  So
/// between two rounds the FIFO is full, and nothing but the device holds what is in it.
///
/// A view over registers, as AcceleratorDriver.
class UartDriver {
 public:
  UartDriver(AddressSpace& bus, Registers& registers, std::uint32_t index)
      : bus_(bus), registers_(registers), index_(index), uart_(registers.uarts[index]) {}

  /// Brings the device up; its UartRegisters exist and name the slot.
  Status set_up(PciSetup& pci);
  Status on_interrupt();
  /// Rounds at the set rate, with a watchdog.
  Status work(std::uint64_t elapsed);
  /// Compares all that the device holds, and leaves it empty.
  Status verify();

  bool running() const { return uart_.state == DeviceRegisters::kRunning; }

 private:
  std::uint8_t read(std::uint32_t reg) { return bus_.load<std::uint8_t>(Gpa{uart_.ports + reg}); }
  void write(std::uint32_t reg, std::uint8_t value) { bus_.store(Gpa{uart_.ports + reg}, value); }
  std::uint8_t byte_at(std::uint64_t number) const;
  std::uint8_t scratch() const;
  Status receive();
  Status compare_all();
  Status send();
  Status compare(const char* what, std::uint8_t expected, std::uint8_t got) const;
  /// True if the device is gone, which is then noted.
  bool gone();

  AddressSpace& bus_;
  Registers& registers_;
  const std::uint32_t index_;
  UartRegisters& uart_;
};

}  // namespace handover::vmm::synthetic
