#include "vmm/config_space.h"

#include <gtest/gtest.h>

namespace handover::vmm {
namespace {

std::vector<std::byte> header() {
  std::vector<std::byte> bytes(256);
  store_le<std::uint32_t>(bytes.data() + pci::kVendorId, 0xacc1484f);
  store_le<std::uint16_t>(bytes.data() + pci::kStatus, pci::kStatusCapabilities);
  store_le<std::uint32_t>(bytes.data() + pci::kBar0, 0x12340000);
  store_le<std::uint32_t>(bytes.data() + pci::kBar0 + 8, pci::kBar64 | 8);
  store_le<std::uint32_t>(bytes.data() + pci::kBar0 + 20, pci::kBarIo);
  bytes[pci::kCapabilities] = std::byte{0x40};
  bytes[0x40] = std::byte{0x01};  // power management, then MSI-X
  bytes[0x41] = std::byte{0x50};
  bytes[0x50] = std::byte{pci::kCapabilityMsix};
  store_le<std::uint16_t>(bytes.data() + 0x52, 0xc004);
  return bytes;
}

class ConfigSpaceTest : public testing::Test {
 protected:
  void write32(std::uint32_t at, std::uint32_t value) {
    std::byte raw[4];
    store_le(raw, value);
    config.write_emulated(at, raw);
  }
  ConfigSpace config{header(), {0x1000, 0, 2 * GiB, 0, 0, 0x20}};
  static constexpr std::uint64_t GiB = std::uint64_t{1} << 30;
};

TEST_F(ConfigSpaceTest, StartsWithoutAddressesAndSwitchedOff) {
  EXPECT_EQ(config.bar(0).address, 0u);
  EXPECT_EQ(config.bar(0).size, 0x1000u);
  EXPECT_FALSE(config.memory_enabled());
  EXPECT_EQ(config.msix_control(), 4) << "size kept, enable and mask cleared";
}

TEST_F(ConfigSpaceTest, AllOnesTellTheSizeOfABar) {
  write32(pci::kBar0, 0xffffffff);
  EXPECT_EQ(config.u32(pci::kBar0), 0xfffff000u);
  write32(pci::kBar0, 0xd0000fff);
  EXPECT_EQ(config.bar(0).address, 0xd0000000u);
}

TEST_F(ConfigSpaceTest, A64BitBarHasTwoHalves) {
  write32(pci::kBar0 + 8, 0xffffffff);
  write32(pci::kBar0 + 12, 0xffffffff);
  EXPECT_EQ(config.u32(pci::kBar0 + 8), 0x80000000u | pci::kBar64 | 8);
  EXPECT_EQ(config.u32(pci::kBar0 + 12), 0xffffffffu);
  write32(pci::kBar0 + 8, 0x80000000);
  write32(pci::kBar0 + 12, 0x12);
  EXPECT_EQ(config.bar(2).address, 0x12'80000000u);
  EXPECT_TRUE(config.bar(2).wide);
  EXPECT_EQ(config.bar(3).size, 0u);
}

TEST_F(ConfigSpaceTest, PortBarsAreNoMemory) {
  EXPECT_FALSE(config.bar(5).memory);
}

TEST_F(ConfigSpaceTest, AbsentBarsAndTheRomReadAsZero) {
  write32(pci::kBar0 + 4, 0xffffffff);
  write32(pci::kRomBar, 0xffffffff);
  EXPECT_EQ(config.u32(pci::kBar0 + 4), 0u);
  EXPECT_EQ(config.u32(pci::kRomBar), 0u);
}

TEST_F(ConfigSpaceTest, OnlyTheWritableBitsOfCommandAndMsixChange) {
  write32(pci::kCommand, 0xffffffff);
  EXPECT_EQ(config.command(), pci::kCommandWritable);
  EXPECT_EQ(config.u16(pci::kStatus), pci::kStatusCapabilities) << "the status register is the device's";
  write32(0x50, 0xffff0000);
  EXPECT_EQ(config.msix_control(), 0xc004);
}

TEST_F(ConfigSpaceTest, WhatTheDeviceSaysDoesNotReachEmulatedRegisters) {
  std::vector<std::byte> all(256, std::byte{0xee});
  config.learn(0, all);
  EXPECT_EQ(config.u16(pci::kVendorId), 0xeeee);
  EXPECT_EQ(config.command(), 0);
  EXPECT_EQ(config.bar(0).address, 0u);
  EXPECT_EQ(config.msix_control(), 4);
}

TEST_F(ConfigSpaceTest, ALoopInTheCapabilityListEnds) {
  auto bytes = header();
  bytes[0x41] = std::byte{0x40};
  const ConfigSpace looped(bytes, {});
  EXPECT_EQ(looped.find_capability(pci::kCapabilityMsix), 0);
  EXPECT_EQ(looped.msix(), 0);
}

TEST_F(ConfigSpaceTest, ACapabilityThatRunsOverTheEndIsNone) {
  auto bytes = header();
  bytes[0x41] = std::byte{0xfc};
  bytes[0xfc] = std::byte{pci::kCapabilityMsix};
  EXPECT_EQ(ConfigSpace(bytes, {}).msix(), 0);
}

}  // namespace
}  // namespace handover::vmm
