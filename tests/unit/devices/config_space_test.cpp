#include "devices/accelerator/config_space.h"

#include <gtest/gtest.h>

#include "devices/accelerator/interface.h"
#include "handover/base/byte_order.h"

namespace handover::accelerator {
namespace {

std::uint64_t get(const ConfigSpace& space, std::size_t offset, std::size_t size) {
  std::byte bytes[8]{};
  space.read(offset, std::span(bytes).first(size));
  return load_le<std::uint64_t>(bytes);
}

void put(ConfigSpace& space, std::size_t offset, std::size_t size, std::uint64_t value) {
  std::byte bytes[8];
  store_le(bytes, value);
  space.write(offset, std::span<const std::byte>(bytes).first(size));
}

TEST(ConfigSpace, SaysWhatTheDeviceIs) {
  ConfigSpace space;
  EXPECT_EQ(get(space, 0, 2), kVendorId);
  EXPECT_EQ(get(space, 2, 2), kDeviceId);
  EXPECT_EQ(get(space, 0x0a, 2), 0x1200u) << "class: processing accelerator";
  EXPECT_EQ(get(space, 0x0e, 1), 0u) << "header type";
  EXPECT_EQ(get(space, 0x3d, 1), 0u) << "no INTx pin";
}

TEST(ConfigSpace, BarsTellTheirSizeByTheBitsThatStick) {
  ConfigSpace space;
  const std::uint64_t sizes[] = {kRegistersSize, kMsixBarSize, kWindowSize, 0, 0, 0};
  for (std::size_t bar = 0; bar < 6; ++bar) {
    put(space, 0x10 + 4 * bar, 4, 0xffffffff);
    const std::uint64_t kept = get(space, 0x10 + 4 * bar, 4);
    EXPECT_EQ((~kept + 1) & 0xffffffff, sizes[bar]) << bar;
    EXPECT_EQ(kept & 0xf, 0u) << "32-bit memory";
  }
  put(space, 0x30, 4, 0xfffff800);
  EXPECT_EQ(get(space, 0x30, 4), 0u) << "no expansion ROM";
}

TEST(ConfigSpace, CapabilityListHasMsixAndEnds) {
  ConfigSpace space;
  ASSERT_TRUE(get(space, 6, 2) & 0x10);
  const std::size_t at = get(space, 0x34, 1);
  EXPECT_EQ(get(space, at, 1), 0x11u);
  EXPECT_EQ(get(space, at + 1, 1), 0u);
  EXPECT_EQ((get(space, at + 2, 2) & 0x7ff) + 1, kMsixVectors);
  EXPECT_EQ(get(space, at + 4, 4), kBarMsix);
  EXPECT_EQ(get(space, at + 8, 4), kMsixPbaOffset | kBarMsix);
  put(space, at + 2, 2, 0xffff);
  EXPECT_EQ(get(space, at + 2, 2), 0xc000u | (kMsixVectors - 1)) << "only enable and mask can be written";
}

TEST(ConfigSpace, WritesOfAnySizeAndOffsetChangeOnlyWritableBits) {
  ConfigSpace space;
  const ConfigSpace fresh;
  std::byte ones[ConfigSpace::kSize];
  std::ranges::fill(ones, std::byte{0xff});
  space.write(0, ones);
  EXPECT_EQ(get(space, 0, 4), kVendorId | std::uint32_t{kDeviceId} << 16);
  EXPECT_EQ(get(space, 4, 2), 0x546u);
  EXPECT_EQ(get(space, 0x80, 8), 0u);
  std::byte zeros[ConfigSpace::kSize]{};
  space.write(0, zeros);
  EXPECT_TRUE(std::ranges::equal(space.bytes(), fresh.bytes()));

  put(space, 0x11, 3, 0xabcdef);  // the upper three bytes of BAR 0, unaligned
  EXPECT_EQ(get(space, 0x10, 4), 0xabcde000u);
  put(space, 0x3b, 2, 0x0bff);
  EXPECT_EQ(get(space, 0x3c, 1), 0x0bu);
}

TEST(ConfigSpace, LoadTakesWhatADriverCanHaveWrittenAndNothingElse) {
  ConfigSpace source;
  put(source, 4, 2, 6);
  put(source, 0x10, 4, 0xfe000000);
  ConfigSpace destination;
  ASSERT_TRUE(destination.load(source.bytes()));
  EXPECT_EQ(get(destination, 0x10, 4), 0xfe000000u);

  std::array<std::byte, ConfigSpace::kSize> bytes;
  std::ranges::copy(source.bytes(), bytes.begin());
  bytes[2] ^= std::byte{1};
  ConfigSpace untouched;
  const auto refused = untouched.load(bytes);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::mismatch);
  EXPECT_EQ(get(untouched, 0x10, 4), 0u);
}

}  // namespace
}  // namespace handover::accelerator
