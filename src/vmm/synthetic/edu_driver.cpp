#include "vmm/synthetic/edu_driver.h"

#include <algorithm>

#include "vmm/intx_line.h"
#include "vmm/synthetic/edu.h"

namespace handover::vmm::synthetic {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
/// A transfer takes a tenth of a second.
constexpr std::uint64_t kInterruptPatience = 5 * kSecond;
constexpr std::uint32_t kGone = 0xffffffff;
/// Behind an IOMMU: the page of the transfer under way, in a domain of the device's own.
constexpr Iova kPageIova{0x1000'0000 - kPageSize};
static_assert(kPageIova.value + kPageSize <= edu::kReach);

}  // namespace

EduDriver::EduDriver(const GuestRam& ram, AddressSpace& bus, const Layout& layout, Registers& registers,
                     std::uint32_t index)
    : ram_(ram),
      bus_(bus),
      layout_(layout),
      registers_(registers),
      iommu_(ram, bus, registers),
      index_(index),
      edu_(registers.edus[index]) {
}

std::unexpected<Error> EduDriver::wrong(std::string what) const {
  return fail(Errc::mismatch, "edu {} (PCI slot {}): {}", index_, edu_.slot, what);
}

bool EduDriver::gone() {
  if (read(edu::kIdentification) != kGone) return false;
  edu_.state = DeviceRegisters::kLost;
  return true;
}

Content EduDriver::content() const {
  return {Content::Kind::varied, mix(registers_.seed, edu_.slot, edu_.rounds)};
}

// Areas are the accelerators', then ours.
Gpa EduDriver::source() const {
  return layout_.device_area(registers_.device_count + index_);
}
Gpa EduDriver::target() const {
  return source() + kPageSize;
}

Status EduDriver::set_up(PciSetup& pci) {
  edu_.state = DeviceRegisters::kLost;  // until it works
  if (!pci.place_bars(edu_.slot)) return wrong("its BAR does not fit below 4 GiB");
  edu_.bar = pci.bar(edu_.slot, 0);
  const auto id = read(edu::kIdentification);
  if (id == kGone) return {};
  if (id != edu::kIdentificationValue)
    return wrong(fmt::format("its id register: expected {:#x}, got {:#x}", edu::kIdentificationValue, id));
  constexpr std::uint32_t kAlive = 0x12345678;
  write(edu::kLiveness, kAlive);
  if (const auto answer = read(edu::kLiveness); answer != ~kAlive)
    return wrong(fmt::format("its liveness register: expected {:#x}, got {:#x}", ~kAlive, answer));
  if (registers_.viommu) {
    iommu_.attach(edu_.slot, domain_of_edu(index_));
    if (iommu_.flush() != iommu::CommandStatus::ok) return wrong("its IOMMU domain cannot be set up");
  }
  write(edu::kInterruptAcknowledge, read(edu::kInterruptStatus));
  pci.enable_line(edu_.slot);
  edu_.state = DeviceRegisters::kRunning;
  return {};
}

Result<std::uint64_t> EduDriver::reach(Gpa page, std::uint32_t flags) {
  if (!registers_.viommu) return page.value;
  iommu_.map(domain_of_edu(index_), kPageIova, page, kPageSize, flags);
  if (iommu_.flush() != iommu::CommandStatus::ok) return wrong("a page cannot be mapped in the IOMMU");
  return kPageIova.value;
}

Status EduDriver::forget() {
  if (!registers_.viommu) return {};
  iommu_.unmap(domain_of_edu(index_), kPageIova, kPageSize);
  if (iommu_.flush() != iommu::CommandStatus::ok) return wrong("a page cannot be unmapped in the IOMMU");
  return {};
}

Status EduDriver::begin(EduRegisters::Phase phase) {
  const bool out = phase == EduRegisters::kFromDevice;
  HANDOVER_ASSIGN(const auto address, reach(out ? target() : source(), out ? iommu::kWrite : iommu::kRead));
  edu_.phase = phase;
  edu_.since = registers_.clock;
  write(edu::kDmaSource, static_cast<std::uint32_t>(out ? edu::kBuffer : address));
  write(edu::kDmaDestination, static_cast<std::uint32_t>(out ? address : edu::kBuffer));
  write(edu::kDmaCount, edu::kTransfer);
  write(edu::kDmaCommand, edu::kDmaStart | edu::kDmaInterrupt | (out ? edu::kDmaToMemory : 0));
  return {};
}

Status EduDriver::compare_target() const {
  const auto bytes = ram_.view(target(), edu::kTransfer);
  const auto difference = compare(content(), 0, bytes);
  if (!difference) return {};
  return wrong(fmt::format("round {}: at guest address {:#x}: expected {:#018x}, got {:#018x}", edu_.rounds,
                           target().value + difference->offset, difference->expected, difference->got));
}

Status EduDriver::finish() {
  HANDOVER_TRY(forget());
  if (edu_.phase == EduRegisters::kToDevice) return begin(EduRegisters::kFromDevice);
  edu_.phase = EduRegisters::kIdle;
  return compare_target();
}

Status EduDriver::unless_gone(Status done) {
  return !done && gone() ? Status{} : done;
}

Status EduDriver::on_interrupt() {
  if (!running() || gone()) return {};
  return unless_gone(take_interrupt());
}

Status EduDriver::take_interrupt() {
  const auto status = read(edu::kInterruptStatus);
  write(edu::kInterruptAcknowledge, status);
  bus_.store<std::uint32_t>(lines::kBase + lines::kEndOfInterrupt, edu_.slot);
  if (status == 0 || edu_.phase == EduRegisters::kIdle) {
    ++registers_.spurious_interrupts;
    return {};
  }
  if (status != edu::kDmaDone) return wrong(fmt::format("its interrupt status is {:#x}", status));
  return finish();
}

Status EduDriver::work(bool more) {
  if (!running()) return {};
  if (edu_.phase == EduRegisters::kIdle) {
    if (!more || gone()) return {};
    ++edu_.rounds;
    generate(content(), 0, ram_.view(source(), edu::kTransfer));
    ram_.written(source(), edu::kTransfer);
    return begin(EduRegisters::kToDevice);
  }
  if (registers_.clock - edu_.since < kInterruptPatience || gone()) return {};
  return unless_gone(watch());
}

// No interrupt has come for a long time.
Status EduDriver::watch() {
  edu_.since = registers_.clock;
  if ((read(edu::kInterruptStatus) & edu::kDmaDone) == 0)
    return wrong(fmt::format("a transfer does not end (command register {:#x})", read(edu::kDmaCommand)));
  ++registers_.interrupts_lost;
  write(edu::kInterruptAcknowledge, edu::kDmaDone);
  return finish();
}

Result<bool> EduDriver::verify() {
  if (!running() || gone()) return true;
  if (edu_.phase != EduRegisters::kIdle) return false;
  if (edu_.rounds > 0) HANDOVER_TRY(compare_target());
  return true;
}

}  // namespace handover::vmm::synthetic
