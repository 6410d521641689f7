#include "handover/memory/zero_page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "handover/base/mapping.h"
#include "unit/memory/random_seed.h"

namespace handover {
namespace {

TEST(ZeroPage, EveryVariantOfThisCpuFindsEverySingleByte) {
  auto memory = Mapping::anonymous(3 * kPageSize).value();
  // Bytes around the page must not matter.
  std::memset(memory.data(), 0xff, memory.size());
  std::byte* page = memory.data() + kPageSize;
  std::memset(page, 0, kPageSize);
  ASSERT_FALSE(zero_page_checks().empty());
  for (const auto& check : zero_page_checks()) {
    SCOPED_TRACE(check.name);
    EXPECT_TRUE(check.is_zero(page));
    for (std::size_t at = 0; at < kPageSize; ++at) {
      page[at] = static_cast<std::byte>(1u << (at % 8));
      ASSERT_FALSE(check.is_zero(page)) << "byte " << at;
      ASSERT_FALSE(is_zero_page(page)) << "byte " << at;
      page[at] = std::byte{0};
    }
  }
  EXPECT_TRUE(is_zero_page(page));
}

TEST(ZeroPage, TheLastVariantIsThePortableOne) {
  EXPECT_EQ(zero_page_checks().back().name, "portable");
}

TEST(ZeroPage, AllVariantsAgreeOnRandomPages) {
  std::mt19937_64 random(test::random_seed());
  auto memory = Mapping::anonymous(kPageSize).value();
  for (int round = 0; round < 2000; ++round) {
    std::memset(memory.data(), 0, kPageSize);
    const auto bytes = random() % 4;
    for (std::uint64_t i = 0; i < bytes; ++i)
      memory.data()[random() % kPageSize] = static_cast<std::byte>(random());
    const bool expected =
        std::ranges::all_of(memory.span(), [](std::byte value) { return value == std::byte{0}; });
    for (const auto& check : zero_page_checks())
      ASSERT_EQ(check.is_zero(memory.data()), expected) << check.name;
    ASSERT_EQ(is_zero_page(memory.data()), expected);
  }
}

}  // namespace
}  // namespace handover
