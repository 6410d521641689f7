#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <thread>
#include <utility>

#include "handover/base/byte_order.h"
#include "handover/vfio/device.h"

namespace handover::vfio_kernel {

/// What the tests know of QEMU's "edu", a PCI device with a DMA engine.
class EduRegisters {
 public:
  // Of BAR 0; sources and destinations of DMA, and what starts it.
  static constexpr std::uint64_t kIdentification = 0x00;
  static constexpr std::uint64_t kRaise = 0x60;
  static constexpr std::uint64_t kAcknowledge = 0x64;
  static constexpr std::uint64_t kSource = 0x80;
  static constexpr std::uint64_t kDestination = 0x88;
  static constexpr std::uint64_t kCount = 0x90;
  static constexpr std::uint64_t kCommand = 0x98;
  static constexpr std::uint32_t kStart = 1;
  static constexpr std::uint32_t kToRam = 2;
  static constexpr std::uint64_t kBuffer = 0x40000;  // of the device's own
  static constexpr std::uint32_t kBytes = 1024;      // that a transfer moves

  using Read = std::function<bool(std::uint32_t region, std::uint64_t offset, std::span<std::byte> to)>;
  using Write =
      std::function<bool(std::uint32_t region, std::uint64_t offset, std::span<const std::byte> from)>;
  EduRegisters(Read read, Write write) : read_(std::move(read)), write_(std::move(write)) {
    const std::byte on[2] = {std::byte{6}, std::byte{0}};  // memory and bus master
    EXPECT_TRUE(write_(vfio::kRegionConfig, 4, on));
  }
  explicit EduRegisters(vfio::Device& device)
      : EduRegisters([&device](auto region, auto offset,
                               auto to) { return device.region_read(region, offset, to).has_value(); },
                     [&device](auto region, auto offset, auto from) {
                       return device.region_write(region, offset, from).has_value();
                     }) {}

  std::uint32_t read32(std::uint64_t reg) const {
    std::byte raw[4]{};
    EXPECT_TRUE(read_(0, reg, raw));
    return load_le<std::uint32_t>(raw);
  }
  void write32(std::uint64_t reg, std::uint32_t value) const {
    std::byte raw[4];
    store_le(raw, value);
    EXPECT_TRUE(write_(0, reg, raw));
  }
  void transfer(std::uint64_t from, std::uint64_t to, std::uint32_t direction) const {
    write32(kSource, static_cast<std::uint32_t>(from));
    write32(kDestination, static_cast<std::uint32_t>(to));
    write32(kCount, kBytes);
    write32(kCommand, kStart | direction);
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (read32(kCommand) & kStart) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

 private:
  Read read_;
  Write write_;
};

}  // namespace handover::vfio_kernel
