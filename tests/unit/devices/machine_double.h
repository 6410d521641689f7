#pragma once

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <set>
#include <vector>

#include "devices/accelerator/interface.h"
#include "handover/base/byte_order.h"
#include "handover/vfio_user/device_model.h"

namespace handover::accelerator::test {

/// Guest memory that devices reach by DMA: real bytes, and a log of the completion records written.
///
/// Layout: submission ring at 0, completion ring at kCompletionRing, data from kData on.
class GuestRam {
 public:
  static constexpr std::uint64_t kSize = 2 * MiB;
  static constexpr std::uint32_t kEntries = 64;
  static constexpr std::uint64_t kCompletionRing = 0x2000;
  static constexpr std::uint64_t kData = 0x10000;

  GuestRam() : bytes_(kSize) {}

  bool copy_out(std::uint64_t at, std::span<std::byte> to) {
    std::lock_guard lock(mutex_);
    if (!range_fits(at, to.size(), kSize)) return false;
    std::memcpy(to.data(), bytes_.data() + at, to.size());
    return true;
  }
  bool copy_in(std::uint64_t at, std::span<const std::byte> from) {
    std::lock_guard lock(mutex_);
    if (!range_fits(at, from.size(), kSize)) return false;
    std::memcpy(bytes_.data() + at, from.data(), from.size());
    if (at >= kCompletionRing && at < kCompletionRing + kEntries * sizeof(CompletionRecord)) {
      CompletionRecord record;
      std::memcpy(&record, from.data(), sizeof record);
      records_.push_back(record);
      changed_.notify_all();
    }
    return true;
  }
  std::vector<std::byte> bytes() {
    std::lock_guard lock(mutex_);
    return bytes_;
  }
  std::vector<CompletionRecord> records() {
    std::lock_guard lock(mutex_);
    return records_;
  }
  void wait_records(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return records_.size() >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> bytes_;
  std::vector<CompletionRecord> records_;
};

/// The bus of one device: its way to the guest's memory, with a gate to stop DMA in the middle, and a seal
/// that counts what a quiet device must not do.
class Bus final : public vfio_user::DeviceBus {
 public:
  explicit Bus(GuestRam& ram) : ram_(ram) {}

  Status dma_read(Iova from, std::span<std::byte> to) override {
    HANDOVER_TRY(pass());
    if (!ram_.copy_out(from.value, to)) return fail(Errc::not_found, "no memory at {:#x}", from.value);
    return {};
  }
  Status dma_write(Iova to, std::span<const std::byte> from) override {
    HANDOVER_TRY(pass());
    if (!ram_.copy_in(to.value, from)) return fail(Errc::not_found, "no memory at {:#x}", to.value);
    return {};
  }
  void trigger_irq(std::uint32_t index, std::uint32_t vector) override {
    std::lock_guard lock(mutex_);
    if (sealed_) ++violations_;
    if (index == vfio::kIrqMsix && vector == 0) ++interrupts_;
    changed_.notify_all();
  }

  /// The DMA call after `calls` more ones waits in the gate.
  void block_after(int calls) {
    std::lock_guard lock(mutex_);
    blocking_ = true;
    passes_ = calls;
  }
  void wait_blocked() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_; });
  }
  void unblock() {
    std::lock_guard lock(mutex_);
    blocking_ = false;
    changed_.notify_all();
  }
  /// From here on the device must do nothing.
  void seal(bool on) {
    std::lock_guard lock(mutex_);
    sealed_ = on;
  }
  void set_client_gone(bool gone) {
    std::lock_guard lock(mutex_);
    gone_ = gone;
  }
  int violations() {
    std::lock_guard lock(mutex_);
    return violations_;
  }
  int interrupts() {
    std::lock_guard lock(mutex_);
    return interrupts_;
  }
  int calls() {
    std::lock_guard lock(mutex_);
    return calls_;
  }
  void wait_calls(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return calls_ >= count; });
  }

 private:
  Status pass() {
    std::unique_lock lock(mutex_);
    ++calls_;
    changed_.notify_all();
    if (sealed_) ++violations_;
    if (blocking_ && passes_-- <= 0) {
      waiting_ = true;
      changed_.notify_all();
      changed_.wait(lock, [this] { return !blocking_; });
      waiting_ = false;
    }
    if (gone_) return fail(Errc::closed, "the client is gone");
    return {};
  }

  GuestRam& ram_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool blocking_ = false;
  bool waiting_ = false;
  int passes_ = 0;
  bool sealed_ = false;
  bool gone_ = false;
  int violations_ = 0;
  int interrupts_ = 0;
  int calls_ = 0;
};

}  // namespace handover::accelerator::test
