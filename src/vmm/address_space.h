#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "handover/base/byte_order.h"
#include "handover/memory/guest_memory.h"

namespace handover::vmm {

/// Answers the guest's accesses to a window of device registers.
class MmioHandler {
 public:
  virtual ~MmioHandler() = default;
  /// The range lies inside the window; any size.
  virtual void read(std::uint64_t offset, std::span<std::byte> to) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> from) = 0;
};

/// What the guest's CPUs see on the physical address bus: RAM, device windows, and nothing between.
///
/// RAM comes first; where windows overlap, the one added first answers.  A read where nothing is gives all
/// ones, a write there vanishes.  An access is cut where one piece ends and the next begins.
///
/// Accesses take no lock: the layout of windows belongs to whoever runs the guest's CPU.  That is the vCPU's
/// thread while the machine runs (BARs move by its own config writes) and the machine's or load threads while
/// it is stopped or at a safe point (Machine::at_safe_point); pause() and resume() of the vCPU order the two.
/// Load threads may change windows side by side, which a leaf lock makes safe.  A machine with several vCPUs
/// would have to bring the others to a safe point before a window moves.
class AddressSpace {
 public:
  explicit AddressSpace(GuestMemory& memory) : memory_(memory) {}

  void read(Gpa at, std::span<std::byte> to);
  void write(Gpa at, std::span<const std::byte> from);

  /// Little-endian integers, as PCI devices have them.
  template <std::unsigned_integral T>
  T load(Gpa at) {
    std::byte raw[sizeof(T)];
    read(at, raw);
    return load_le<T>(raw);
  }
  template <std::unsigned_integral T>
  void store(Gpa at, T value) {
    std::byte raw[sizeof(T)];
    store_le(raw, value);
    write(at, raw);
  }

  /// `owner` only names the windows for remove_windows().
  void add_window(const void* owner, Gpa start, std::uint64_t size, MmioHandler& handler);
  /// A window whose bytes are mapped into this process and stay so until it is removed.  The file behind them
  /// may be another process's: where it has been cut short, nothing answers.
  void add_direct_window(const void* owner, Gpa start, std::span<std::byte> bytes);
  void remove_windows(const void* owner);

 private:
  struct Window {
    const void* owner;
    std::uint64_t start;
    std::uint64_t size;
    MmioHandler* handler;  // null: direct
    std::byte* direct;
  };
  struct Piece {
    std::byte* bytes = nullptr;  // RAM or direct
    bool ram = false;
    const Window* window = nullptr;  // with a handler
    std::uint64_t offset = 0;        // in the window
    std::uint64_t length = 0;
  };
  Piece locate(std::uint64_t at, std::uint64_t length) const;

  GuestMemory& memory_;
  std::mutex changing_;  // leaf: one change of windows_ at a time
  std::vector<Window> windows_;
};

}  // namespace handover::vmm
