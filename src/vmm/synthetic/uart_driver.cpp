#include "vmm/synthetic/uart_driver.h"

#include "vmm/intx_line.h"
#include "vmm/synthetic/content.h"
#include "vmm/synthetic/uart.h"

namespace handover::vmm::synthetic {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kInterruptPatience = 2 * kSecond;
/// Less than the FIFO has, so that a byte too many is found and not dropped.
constexpr std::uint32_t kBurst = 12;
constexpr std::uint8_t kGone = 0xff;

}  // namespace

std::uint8_t UartDriver::byte_at(std::uint64_t number) const {
  return static_cast<std::uint8_t>(mix(registers_.seed, uart_.slot, number));
}

// Never what a bus without an answer reads as.
std::uint8_t UartDriver::scratch() const {
  return static_cast<std::uint8_t>(mix(registers_.seed, ~uart_.slot, uart_.rounds) % kGone);
}

Status UartDriver::compare(const char* what, std::uint8_t expected, std::uint8_t got) const {
  if (expected == got) return {};
  return fail(Errc::mismatch, "UART {} (PCI slot {}): {}: expected {:#04x}, got {:#04x}", index_, uart_.slot,
              what, expected, got);
}

// No UART has all bits of its line status set.
bool UartDriver::gone() {
  if (read(uart::kLineStatus) != kGone) return false;
  uart_.state = DeviceRegisters::kLost;
  return true;
}

Status UartDriver::set_up(PciSetup& pci) {
  uart_.state = DeviceRegisters::kLost;  // until it works
  if (!pci.place_bars(uart_.slot))
    return fail(Errc::mismatch, "UART {} (PCI slot {}): its ports do not fit", index_, uart_.slot);
  uart_.ports = pci.ports(uart_.slot, 0);
  if (uart_.ports == 0 || gone()) return {};
  pci.enable_line(uart_.slot);
  write(uart::kLineControl, uart::kEightBits);
  write(uart::kFifoControl, uart::kFifoEnableAndClear);
  write(uart::kModemControl, uart::kModemReady);
  write(uart::kInterruptEnable, uart::kReceivedDataInterrupt);
  write(uart::kScratch, scratch());
  uart_.state = DeviceRegisters::kRunning;
  return {};
}

Status UartDriver::on_interrupt() {
  if (!running()) return {};
  if (uart_.waiting_since == 0) ++registers_.spurious_interrupts;
  uart_.waiting_since = 0;
  bus_.store<std::uint32_t>(lines::kBase + lines::kEndOfInterrupt, uart_.slot);
  return {};
}

// A device may go at any moment, and reads as ones from then on.
Status UartDriver::receive() {
  if (gone()) return {};
  auto compared = compare_all();
  return !compared && gone() ? Status{} : compared;
}

Status UartDriver::compare_all() {
  HANDOVER_TRY(compare("its line control", uart::kEightBits, read(uart::kLineControl)));
  HANDOVER_TRY(compare("its modem control", uart::kModemReady, read(uart::kModemControl)));
  HANDOVER_TRY(
      compare("its interrupt enable register", uart::kReceivedDataInterrupt, read(uart::kInterruptEnable)));
  HANDOVER_TRY(compare("its scratch register", scratch(), read(uart::kScratch)));
  for (; uart_.received < uart_.sent; ++uart_.received) {
    HANDOVER_TRY(compare("data ready in its line status", uart::kDataReady,
                         read(uart::kLineStatus) & uart::kDataReady));
    HANDOVER_TRY(compare("the next byte of its FIFO", byte_at(uart_.received), read(uart::kData)));
  }
  return compare("no data in its line status", 0, read(uart::kLineStatus) & uart::kDataReady);
}

Status UartDriver::send() {
  ++uart_.rounds;
  write(uart::kScratch, scratch());
  for (std::uint32_t i = 0; i < kBurst; ++i)
    write(uart::kData, byte_at(uart_.sent++));
  uart_.waiting_since = registers_.clock;
  return {};
}

Status UartDriver::work(std::uint64_t elapsed) {
  if (!running()) return {};
  uart_.credit = std::min(uart_.credit + elapsed * registers_.job_rate, kSecond);
  if (uart_.credit < kSecond) return {};
  if (uart_.waiting_since != 0) {
    if (registers_.clock - uart_.waiting_since < kInterruptPatience) return {};
    ++registers_.interrupts_lost;
    uart_.waiting_since = 0;
  }
  uart_.credit = 0;
  HANDOVER_TRY(receive());
  return running() ? send() : Status{};
}

Status UartDriver::verify() {
  return running() ? receive() : Status{};
}

}  // namespace handover::vmm::synthetic
