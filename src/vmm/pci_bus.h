#pragma once

#include <array>
#include <cstdint>

#include "vmm/address_space.h"
#include "vmm/pci_device.h"

namespace handover::vmm {

/// Where the machine's devices are in the guest's physical address space, below 4 GiB.
inline constexpr std::uint64_t kMmioBase = GuestMemory::kHoleStart;  ///< BARs, up to kEcamBase
inline constexpr std::uint64_t kEcamBase = 0xe0000000;
inline constexpr Gpa kPortBase{0xe8000000};  ///< I/O port n is at kPortBase + n
inline constexpr std::uint64_t kPorts = 0x10000;
inline constexpr std::uint64_t kMessageBase = 0xfee00000;  ///< messages of interrupts
inline constexpr std::uint64_t kMessageMask = 0xfff00000;

inline constexpr std::uint32_t kPciSlots = 32;  ///< slot 0 stays empty
/// One function a slot in the memory-mapped config space (PCI Express enhanced access mechanism).
inline constexpr std::uint64_t kEcamSlotBytes = 8 * 4096;

/// PCI bus 0: config space of every slot at kEcamBase, and the register with which the guest ends the
/// interrupt of a slot's line (intx_line.h).  An empty slot reads as all ones.
///
/// Threads as AddressSpace; slots are filled before the machine starts.
class PciBus final : public MmioHandler {
 public:
  explicit PciBus(AddressSpace& bus) : bus_(bus) {
    bus_.add_window(this, Gpa{kEcamBase}, kPciSlots * kEcamSlotBytes, *this);
    bus_.add_window(this, lines::kBase, lines::kSize, controller_);
  }
  ~PciBus() override { bus_.remove_windows(this); }
  PciBus(const PciBus&) = delete;
  PciBus& operator=(const PciBus&) = delete;

  void plug(PciDevice& device) { slots_[device.slot()] = &device; }
  void unplug(PciDevice& device) { slots_[device.slot()] = nullptr; }

  void read(std::uint64_t offset, std::span<std::byte> to) override;
  void write(std::uint64_t offset, std::span<const std::byte> from) override;

 private:
  // Null if no device answers the whole range.
  PciDevice* find(std::uint64_t offset, std::size_t bytes, std::uint32_t& at) const;

  class LineController final : public MmioHandler {
   public:
    explicit LineController(PciBus& pci) : pci_(pci) {}
    void read(std::uint64_t offset, std::span<std::byte> to) override;
    void write(std::uint64_t offset, std::span<const std::byte> from) override;

   private:
    PciBus& pci_;
  };

  AddressSpace& bus_;
  std::array<PciDevice*, kPciSlots> slots_{};
  LineController controller_{*this};
};

}  // namespace handover::vmm
