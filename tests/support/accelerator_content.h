#pragma once

#include <chrono>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "devices/accelerator/interface.h"
#include "handover/base/byte_order.h"
#include "handover/vfio_user/client.h"

namespace handover::test {

/// Does jobs on a served accelerator, as its driver would, and lets go of it: gives its memory a content, and
/// tells what content it has.
class AcceleratorContent {
 public:
  /// Throws what goes wrong.
  explicit AcceleratorContent(const std::string& socket) : memory_(value(GuestMemory::create(kGuestBytes))) {
    device_ = value(vfio_user::connect({.id = "accel", .socket_path = socket}, *memory_, {}));
    const auto& range = memory_->ranges().at(0);
    value(device_->dma_map({.iova = {range.start.value},
                            .size = range.size,
                            .fd = range.block->fd(),
                            .offset = range.offset,
                            .host = range.block->data()}));
    write(accelerator::reg::kControl, 0);
    write(accelerator::reg::kRingAddress, 0, 8);
    write(accelerator::reg::kCompletionAddress, kCompletions, 8);
    write(accelerator::reg::kRingEntries, kEntries);
    write(accelerator::reg::kControl, accelerator::kControlEnable);
  }
  ~AcceleratorContent() {
    if (!device_->lost()) write(accelerator::reg::kControl, 0);
  }

  /// Random bytes in every part of the memory.
  void fill(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto size = read(accelerator::reg::kMemorySize, 8);
    for (std::uint64_t at = 0; at < size; at += kPiece) {
      std::vector<std::uint64_t> data(kPiece / 8);
      for (auto& word : data)
        word = random();
      if (!memory_->write({kData}, std::as_bytes(std::span(data)))) throw std::runtime_error("guest memory");
      job(accelerator::Operation::copy_in, at, kPiece);
    }
  }
  /// A hash of all of it.
  std::uint64_t hash() {
    return job(accelerator::Operation::hash, 0, read(accelerator::reg::kMemorySize, 8));
  }

 private:
  static constexpr std::uint64_t kPiece = 1 * MiB;
  static constexpr std::uint64_t kCompletions = 0x1000;
  static constexpr std::uint64_t kData = 0x10000;
  static constexpr std::uint64_t kGuestBytes = kData + kPiece;
  static constexpr std::uint32_t kEntries = 8;

  template <class T>
  static T value(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().to_string());
    if constexpr (!std::is_void_v<T>) return std::move(*result);
  }
  void write(std::uint64_t at, std::uint64_t what, std::size_t width = 4) {
    std::byte bytes[8];
    store_le(bytes, what);
    value(device_->region_write(accelerator::kBarRegisters, at, std::span(bytes).first(width)));
  }
  std::uint64_t read(std::uint64_t at, std::size_t width) {
    std::byte bytes[8]{};
    value(device_->region_read(accelerator::kBarRegisters, at, std::span(bytes).first(width)));
    return load_le<std::uint64_t>(bytes);
  }
  std::uint64_t job(accelerator::Operation operation, std::uint64_t at, std::uint64_t length) {
    accelerator::Descriptor what{};
    what.id = submitted_;
    what.operation = static_cast<std::uint32_t>(operation);
    what.guest_address = kData;
    what.device_offset = at;
    what.length = length;
    if (!memory_->write({submitted_ % kEntries * sizeof what}, std::as_bytes(std::span(&what, 1))))
      throw std::runtime_error("guest memory");
    const auto place = submitted_ % kEntries;
    write(accelerator::reg::kDoorbell, ++submitted_);
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (read(accelerator::reg::kCompleted, 4) != submitted_) {
      if (std::chrono::steady_clock::now() > end) throw std::runtime_error("the job never ends");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    accelerator::CompletionRecord record{};
    if (!memory_->read({kCompletions + place * sizeof record},
                       std::as_writable_bytes(std::span(&record, 1))) ||
        record.status != static_cast<std::uint32_t>(accelerator::JobStatus::ok))
      throw std::runtime_error("the job failed");
    return record.result;
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<vfio::Device> device_;
  std::uint32_t submitted_ = 0;
};

}  // namespace handover::test
