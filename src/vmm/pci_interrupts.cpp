#include <sys/eventfd.h>
#include <unistd.h>

#include "handover/base/log.h"
#include "vmm/pci_device.h"

// How a device's interrupts come to the guest: by MSI-X, or by its line as long as MSI-X is off.

namespace handover::vmm {
namespace {

Result<UniqueFd> make_eventfd() {
  UniqueFd eventfd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!eventfd) return fail_errno(errno, "cannot make an eventfd");
  return eventfd;
}

bool signalled(const UniqueFd& eventfd) {
  std::uint64_t count = 0;
  return ::read(eventfd.get(), &count, sizeof count) == sizeof count && count > 0;
}

}  // namespace

Status PciDevice::find_msix() {
  const std::uint32_t at = config_.msix();
  if (at == 0 || device_.info().num_irqs <= vfio::kIrqMsix) return {};
  const std::uint32_t vectors = (config_.msix_control() & pci::kMsixSizeMask) + 1u;
  const std::uint32_t offered = device_.irq(vfio::kIrqMsix).count;
  if (offered < vectors)
    return fail(Errc::device, "its MSI-X capability has {} vectors and its interrupts are {}", vectors,
                offered);

  auto place = [&](std::uint32_t reg, std::uint64_t bytes, std::uint32_t& bar,
                   std::uint64_t& offset) -> Status {
    const std::uint32_t value = config_.u32(at + reg);
    bar = value & 7;
    offset = value & ~7u;
    if (bar >= pci::kBars || !range_fits(offset, bytes, device_.region(vfio::kRegionBar0 + bar).size))
      return fail(Errc::device, "its MSI-X capability points outside its BARs (BAR {}, offset {:#x})", bar,
                  offset);
    return {};
  };
  HANDOVER_TRY(place(pci::kMsixTable, std::uint64_t{vectors} * MsixTable::kEntryBytes, msix_place_.table_bar,
                     msix_place_.table_offset));
  HANDOVER_TRY(place(pci::kMsixPba, (vectors + 7) / 8, msix_place_.pending_bar, msix_place_.pending_offset));

  msix_ = std::make_unique<MsixTable>(vectors, wiring_.interrupt_sink);
  table_window_ = std::make_unique<TableWindow>(*msix_);
  pending_window_ = std::make_unique<PendingWindow>(*msix_);
  for (std::uint32_t vector = 0; vector < vectors; ++vector) {
    HANDOVER_ASSIGN_CONTEXT(auto eventfd, make_eventfd(), "MSI-X vector {}", vector);
    eventfds_.push_back(std::move(eventfd));
  }
  for (std::uint32_t vector = 0; vector < vectors; ++vector)
    watches_.push_back(std::make_unique<EventWatch>(wiring_.interrupts, eventfds_[vector].get(),
                                                    [this, vector] { drain(vector); }));
  return {};
}

Status PciDevice::find_intx() {
  if (interrupt_pin() >= 4 || device_.info().num_irqs <= vfio::kIrqIntx ||
      device_.irq(vfio::kIrqIntx).count == 0)
    return {};
  intx_ = std::make_unique<IntxLine>(slot_, wiring_.interrupt_sink);
  HANDOVER_ASSIGN_CONTEXT(line_eventfd_, make_eventfd(), "its interrupt line");
  line_watch_ =
      std::make_unique<EventWatch>(wiring_.interrupts, line_eventfd_.get(), [this] { drain_line(); });
  return install_line(true);
}

// 0 to 3: INTA to INTD; more: none.
std::uint32_t PciDevice::interrupt_pin() const {
  return config_.u8(pci::kInterruptPin) - 1u;
}

Status PciDevice::install_line(bool on) {
  const int eventfd = line_eventfd_.get();
  const std::span<const int> fds(&eventfd, on ? 1 : 0);
  HANDOVER_TRY_CONTEXT(device_.set_irq_eventfds(vfio::kIrqIntx, fds), "device `{}`: {} its interrupt line",
                       device_.id(), on ? "enabling" : "disabling");
  line_installed_ = on;
  return {};
}

Status PciDevice::install_eventfds(bool on) {
  std::vector<int> fds;
  if (on)
    for (const auto& fd : eventfds_)
      fds.push_back(fd.get());
  HANDOVER_TRY_CONTEXT(device_.set_irq_eventfds(vfio::kIrqMsix, fds), "device `{}`: {} its MSI-X interrupts",
                       device_.id(), on ? "enabling" : "disabling");
  eventfds_installed_ = on;
  return {};
}

// A device has one kind of interrupts at a time; the one goes before the other comes.
Status PciDevice::use_interrupts(bool msix) {
  if (msix == eventfds_installed_) return {};
  if (intx_ && msix && line_installed_) HANDOVER_TRY(install_line(false));
  HANDOVER_TRY(install_eventfds(msix));
  if (intx_ && !msix && !line_installed_) HANDOVER_TRY(install_line(true));
  return {};
}

void PciDevice::drop_interrupts() {
  if (eventfds_installed_)
    if (auto done = install_eventfds(false); !done) log::debug("detaching: {}", done.error().to_string());
  if (line_installed_)
    if (auto done = install_line(false); !done) log::debug("detaching: {}", done.error().to_string());
}

void PciDevice::update_msix() {
  const bool on = (config_.msix_control() & MsixTable::kControlEnable) != 0;
  const bool changes = on != eventfds_installed_;
  // On: the table is ready before the first eventfd.  Off: what was signalled before still counts.
  if (on) msix_->set_control(config_.msix_control());
  if (changes)
    if (auto done = use_interrupts(on); !done) log::warn("{}", done.error().to_string());
  if (on) return;
  if (changes) collect_interrupts();
  msix_->set_control(config_.msix_control());
}

// Reading the eventfd and raising the interrupt are one step.
void PciDevice::drain(std::uint32_t vector) {
  std::lock_guard lock(drain_mutex_);
  if (signalled(eventfds_[vector])) msix_->raise(vector);
}

void PciDevice::drain_line() {
  std::lock_guard lock(drain_mutex_);
  if (signalled(line_eventfd_)) intx_->raise();
}

void PciDevice::collect_interrupts() {
  for (std::uint32_t vector = 0; vector < eventfds_.size(); ++vector)
    drain(vector);
  if (intx_) drain_line();
}

void PciDevice::end_of_interrupt() {
  if (!intx_ || !intx_->lower()) return;
  if (auto done = device_.unmask_irq(vfio::kIrqIntx); !done && !device_.lost())
    log::warn("device `{}`: unmasking its interrupt line: {}", device_.id(), done.error().to_string());
}

Status PciDevice::change(RunState, RunState to) {
  const bool runs = to == RunState::running;
  if (msix_) runs ? msix_->thaw() : msix_->freeze();
  if (intx_) runs ? intx_->thaw() : intx_->freeze();
  return {};
}

}  // namespace handover::vmm
