#include "solo/pci_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "devices/accelerator/accelerator.h"
#include "handover/channel/memory_channel.h"
#include "unit/vmm/direct_device.h"

namespace handover::solo {
namespace {

using accelerator::Accelerator;
using testing::HasSubstr;

struct Rig {
  Rig()
      : memory(GuestMemory::create(kPageSize).value()),
        model(Accelerator::create({.name = "accel", .memory_size = 2 * MiB}).value()),
        device("accel0", *model, *memory) {}
  PciConfig config() { return {device, PciHeader::read(device).value()}; }

  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<Accelerator> model;
  handover::test::DirectDevice device;
};

std::vector<std::byte> saved(PciConfig config) {
  MemoryChannel channel("state");
  StreamWriter out(channel);
  EXPECT_TRUE(config.save(out));
  EXPECT_TRUE(out.flush());
  return channel.output();
}

Status load(PciConfig& config, std::span<const std::byte> bytes) {
  MemoryChannel channel("state", bytes);
  StreamReader in(channel);
  return config.load(in);
}

constexpr std::size_t kConfigAt = 4;
constexpr std::size_t kLinesAt = kConfigAt + 256;
constexpr std::size_t kTableAt = kLinesAt + 16;

TEST(PciConfig, IsWrittenInQemusLayout) {
  Rig rig;
  const auto bytes = saved(rig.config());
  // Two vectors: 32 bytes of table and one of pending bits.
  ASSERT_EQ(bytes.size(), kTableAt + 32 + 1);
  EXPECT_EQ(load_be<std::uint32_t>(bytes.data()), 2u);
  std::vector<std::byte> config(256);
  ASSERT_TRUE(rig.device.region_read(vfio::kRegionConfig, 0, config));
  EXPECT_TRUE(std::ranges::equal(std::span(bytes).subspan(kConfigAt, 256), config));
  for (std::size_t at = kLinesAt; at < kTableAt; ++at)
    EXPECT_EQ(bytes[at], std::byte{0});
  for (std::size_t at = kTableAt; at < bytes.size(); ++at)
    EXPECT_EQ(bytes[at], std::byte(at == kTableAt + 12 || at == kTableAt + 28 ? 1 : 0))
        << "masked, not pending";
}

TEST(PciConfig, WritesBackWhatADriverDependsOnAndNoAddresses) {
  Rig rig;
  auto bytes = saved(rig.config());
  store_le<std::uint16_t>(bytes.data() + kConfigAt + pci::kCommand, 0xffff);
  bytes[kConfigAt + pci::kCacheLineSize] = std::byte{0x10};
  bytes[kConfigAt + pci::kInterruptLine] = std::byte{11};
  store_le<std::uint32_t>(bytes.data() + kConfigAt + pci::kBar0, 0xfebf0000);
  auto config = rig.config();
  ASSERT_TRUE(load(config, bytes));
  ASSERT_TRUE(rig.device.config_writes.empty()) << "not before it is applied";
  ASSERT_TRUE(config.apply());
  std::vector<std::uint64_t> touched;
  for (const auto& [at, written] : rig.device.config_writes)
    touched.push_back(at);
  EXPECT_THAT(touched, testing::UnorderedElementsAre(pci::kCacheLineSize, pci::kLatencyTimer,
                                                     pci::kInterruptLine, pci::kCommand));
  const auto now = PciHeader::read(rig.device).value();
  EXPECT_EQ(now.u16(pci::kCommand) & ~pci::kCommandWritable, 0);
  EXPECT_NE(now.u16(pci::kCommand), 0);
  EXPECT_EQ(now.u8(pci::kCacheLineSize), 0x10);
  EXPECT_EQ(now.u8(pci::kInterruptLine), 11);
  EXPECT_EQ(now.u32(pci::kBar0), 0u);
}

TEST(PciConfig, WhatDiffersIsNamedWithBothSides) {
  struct Case {
    std::size_t at;
    unsigned char value;
    const char* said;
  };
  const Case cases[] = {
      {3, 3, "version 3"},
      {kConfigAt + pci::kDevice, 0x77, "device and vendor id is 0xacc1484f here and 0xac77484f"},
      {kConfigAt + pci::kRevision, 9, "class and revision"},
      {kConfigAt + pci::kSubsystemVendor, 9, "subsystem"},
      {kConfigAt + pci::kHeaderType, 0x81, "header type is 0x0 here and 0x81"},
      {kConfigAt + pci::kBar0, 0x0c, "kind of BAR 0 is 0x0 here and 0xc"},
      {kLinesAt + 4 + 3, 1, "INTB"},
  };
  Rig rig;
  const auto good = saved(rig.config());
  for (const auto& one : cases) {
    auto bytes = good;
    bytes[one.at] = std::byte{one.value};
    auto config = rig.config();
    const auto loaded = load(config, bytes);
    ASSERT_FALSE(loaded) << one.said;
    EXPECT_THAT(loaded.error().to_string(), HasSubstr(one.said));
    EXPECT_FALSE(config.apply()) << "nothing was loaded";
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    auto config = rig.config();
    EXPECT_FALSE(load(config, std::span(good).first(size))) << size;
  }
}

TEST(PciHeader, ALoopOfCapabilitiesEnds) {
  std::vector<std::byte> bytes(256);
  store_le<std::uint16_t>(bytes.data() + pci::kStatus, 0x10);
  bytes[pci::kCapabilities] = std::byte{0x40};
  bytes[0x40] = std::byte{9};
  bytes[0x41] = std::byte{0x40};
  EXPECT_EQ(PciHeader(bytes).msix_vectors(), 0u);
  bytes[0x41] = std::byte{0xf8};
  bytes[0xf8] = std::byte{0x11};
  EXPECT_EQ(PciHeader(bytes).msix_vectors(), 0u) << "it does not fit there";
  bytes[0x41] = std::byte{0xf0};
  bytes[0xf0] = std::byte{0x11};
  store_le<std::uint16_t>(bytes.data() + 0xf2, 0xffff);
  EXPECT_EQ(PciHeader(bytes).msix_vectors(), 2048u);
}

}  // namespace
}  // namespace handover::solo
