#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "handover/base/event_loop.h"
#include "handover/base/unique_fd.h"
#include "handover/machine/machine.h"
#include "handover/vfio/device.h"
#include "handover/vfio/device_config.h"
#include "vmm/address_space.h"
#include "vmm/config_space.h"
#include "vmm/event_watch.h"
#include "vmm/intx_line.h"
#include "vmm/msix.h"
#include "vmm/peer_mappings.h"

namespace handover::vmm {

/// A VFIO device in a slot of the machine's PCI bus: what the guest sees of it and what the VMM keeps of it.
///
/// BARs, command register and MSI-X live here; other config accesses and register accesses go to the device.
/// Memory BARs are in the address space while memory decoding is on: mappable areas of a file directly, the
/// MSI-X table and its pending bits from MsixTable, the rest by region access; I/O BARs, while that is on, in
/// the window of the ports.  Without an IOMMU for the guest all its
/// RAM is mapped for the device's DMA as long as this object lives, and its mappable areas for the DMA of its
/// peers, if the machine has peer to peer on.
///
/// Interrupts: one eventfd a vector, watched on `interrupts` (a loop with a thread of its own), installed at
/// the device while MSI-X is on; otherwise that of its line, if it has one.  While the machine does not run
/// they become pending bits, and a line that stays up.
///
/// Guest accesses and withdraw() follow AddressSpace's rule of ownership.  So do load() and apply(), but
/// those of several devices may run side by side: windows and peers' mappings are changed under leaf locks.
/// collect_interrupts(), save() and the run-state calls may come from any thread.  Lock order: drain, then
/// MsixTable's.
class PciDevice final : public vfio::DeviceConfig, public RunStateListener {
 public:
  struct Wiring {
    AddressSpace& bus;
    GuestMemory& memory;
    InterruptSink& interrupt_sink;
    EventLoop& interrupts;
    PeerMappings* peers = nullptr;  ///< null: no device reaches another's memory
    bool behind_iommu = false;      ///< the guest's IOMMU says what of RAM it reaches
  };

  /// Reads what the device is and maps RAM for it.  All references outlive the object, `interrupts` runs.
  static Result<std::unique_ptr<PciDevice>> attach(vfio::Device& device, std::uint32_t slot,
                                                   const Wiring& wiring);
  ~PciDevice() override;

  /// Takes it off the bus and out of reach of its peers; the rest of it is taken down by the destructor,
  /// while the guest may run.
  void withdraw();

  std::uint32_t slot() const { return slot_; }
  vfio::Device& device() { return device_; }
  const ConfigSpace& config() const { return config_; }
  std::uint32_t msix_vectors() const { return msix_ ? msix_->vectors() : 0; }

  /// Guest accesses to config space; the range fits.
  void config_read(std::uint32_t at, std::span<std::byte> to);
  void config_write(std::uint32_t at, std::span<const std::byte> from);
  /// The guest has handled what the device's interrupt line told it.
  void end_of_interrupt();

  // vfio::DeviceConfig
  Status save(StreamWriter& out) override;
  Status load(StreamReader& in) override;
  void collect_interrupts() override;
  Status apply() override;

  // RunStateListener: opens and closes the way of interrupts to the guest.
  std::string name() const override { return device_.id() + " interrupts"; }
  Status change(RunState from, RunState to) override;

 private:
  // The part of a BAR that only the device can answer for.
  class Region final : public MmioHandler {
   public:
    Region(vfio::Device& device, std::uint32_t index) : device_(device), index_(index) {}
    void read(std::uint64_t offset, std::span<std::byte> to) override;
    void write(std::uint64_t offset, std::span<const std::byte> from) override;

   private:
    vfio::Device& device_;
    std::uint32_t index_;
  };
  class TableWindow final : public MmioHandler {
   public:
    explicit TableWindow(MsixTable& table) : table_(table) {}
    void read(std::uint64_t offset, std::span<std::byte> to) override { table_.read_table(offset, to); }
    void write(std::uint64_t offset, std::span<const std::byte> from) override {
      table_.write_table(offset, from);
    }

   private:
    MsixTable& table_;
  };
  class PendingWindow final : public MmioHandler {
   public:
    explicit PendingWindow(MsixTable& table) : table_(table) {}
    void read(std::uint64_t offset, std::span<std::byte> to) override { table_.read_pending(offset, to); }
    void write(std::uint64_t, std::span<const std::byte>) override {}

   private:
    MsixTable& table_;
  };
  struct DirectArea {
    std::uint32_t bar;
    std::uint64_t offset;
    std::shared_ptr<const Mapping> mapping;
    vfio::AreaFile file;
  };
  struct MsixPlace {
    std::uint32_t table_bar = 0, pending_bar = 0;
    std::uint64_t table_offset = 0, pending_offset = 0;
  };

  PciDevice(vfio::Device& device, std::uint32_t slot, const Wiring& wiring);
  Status read_config();
  Status find_msix();
  Status find_intx();
  Status map_areas();
  Status map_ram();
  void update_windows();
  void publish_areas();
  void add_bar_windows(std::uint32_t index, const BarDecode& decode);
  std::uint32_t interrupt_pin() const;
  Status install_eventfds(bool on);
  Status install_line(bool on);
  Status use_interrupts(bool msix);
  void drop_interrupts();
  void update_msix();
  void forward_write(std::uint32_t at, std::span<const std::byte> from);
  void drain(std::uint32_t vector);
  void drain_line();
  Status check_identity(std::span<const std::byte> theirs) const;
  void adopt(std::span<const std::byte> theirs);

  vfio::Device& device_;
  const std::uint32_t slot_;
  Wiring wiring_;
  ConfigSpace config_;
  std::unique_ptr<MsixTable> msix_;  // null: the device has none
  MsixPlace msix_place_;
  std::unique_ptr<TableWindow> table_window_;
  std::unique_ptr<PendingWindow> pending_window_;
  std::array<std::unique_ptr<Region>, pci::kBars> regions_;
  std::vector<DirectArea> direct_areas_;
  std::vector<vfio::IovaRange> mapped_ram_;
  std::unique_ptr<IntxLine> intx_;  // null: the device has none
  bool eventfds_installed_ = false;
  bool line_installed_ = false;
  std::mutex drain_mutex_;  // makes "read the eventfd, raise the vector" one step
  std::vector<UniqueFd> eventfds_;
  UniqueFd line_eventfd_;
  std::unique_ptr<EventWatch> line_watch_;
  std::vector<std::unique_ptr<EventWatch>> watches_;  // last: no callback into members that are gone
};

}  // namespace handover::vmm
