#include "vmm/msix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "handover/base/byte_order.h"

namespace handover::vmm {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

class Messages final : public InterruptSink {
 public:
  void message(std::uint64_t address, std::uint32_t data) override { all.emplace_back(address, data); }
  std::vector<std::pair<std::uint64_t, std::uint32_t>> all;
};

class MsixTest : public testing::Test {
 protected:
  void program(std::uint32_t vector, std::uint32_t data, std::uint32_t control = 0) {
    std::array<std::byte, 16> entry{};
    store_le<std::uint64_t>(entry.data(), 0xfee00000);
    store_le<std::uint32_t>(entry.data() + 8, data);
    store_le<std::uint32_t>(entry.data() + 12, control);
    table.write_table(vector * 16, entry);
  }
  void mask(std::uint32_t vector, bool on) {
    std::array<std::byte, 4> control{std::byte{on}};
    table.write_table(vector * 16 + 12, control);
  }
  std::uint8_t pending() {
    std::array<std::byte, 1> bits{};
    table.read_pending(0, bits);
    return std::to_integer<std::uint8_t>(bits[0]);
  }
  void run() {
    table.set_control(MsixTable::kControlEnable);
    table.thaw();
  }

  Messages messages;
  MsixTable table{3, messages};
};

TEST_F(MsixTest, AnInterruptBecomesTheMessageOfItsVector) {
  program(0, 32);
  program(2, 34);
  run();
  table.raise(2);
  EXPECT_THAT(messages.all, ElementsAre(Pair(0xfee00000, 34)));
  EXPECT_EQ(pending(), 0);
}

TEST_F(MsixTest, VectorsAreMaskedAtFirst) {
  run();
  table.raise(0);
  EXPECT_THAT(messages.all, IsEmpty());
  EXPECT_EQ(pending(), 1);
}

TEST_F(MsixTest, AMaskedInterruptIsDeliveredOnceWhenUnmasked) {
  program(1, 33, 1);
  run();
  table.raise(1);
  table.raise(1);
  EXPECT_THAT(messages.all, IsEmpty());
  EXPECT_EQ(pending(), 2);
  mask(1, false);
  EXPECT_THAT(messages.all, ElementsAre(Pair(0xfee00000, 33)));
  EXPECT_EQ(pending(), 0);
}

TEST_F(MsixTest, TheFunctionMaskHoldsEverythingBack) {
  program(0, 32);
  program(1, 33);
  table.thaw();
  table.set_control(MsixTable::kControlEnable | MsixTable::kControlMaskAll);
  table.raise(0);
  table.raise(1);
  EXPECT_EQ(pending(), 3);
  table.set_control(MsixTable::kControlEnable);
  EXPECT_THAT(messages.all, ElementsAre(Pair(0xfee00000, 32), Pair(0xfee00000, 33)));
}

TEST_F(MsixTest, FrozenInterruptsWaitAndAreDeliveredAtTheThaw) {
  program(0, 32);
  run();
  table.freeze();
  table.raise(0);
  EXPECT_THAT(messages.all, IsEmpty());
  EXPECT_EQ(pending(), 1);
  table.thaw();
  EXPECT_THAT(messages.all, ElementsAre(Pair(0xfee00000, 32)));
}

TEST_F(MsixTest, SwitchedOffNothingIsRaisedAndNothingKept) {
  program(0, 32);
  table.thaw();
  table.raise(0);
  EXPECT_EQ(pending(), 0);
  table.set_control(MsixTable::kControlEnable);
  EXPECT_THAT(messages.all, IsEmpty());
}

TEST_F(MsixTest, StateMovesWithItsPendingBits) {
  program(0, 32, 1);
  program(1, 33);
  run();
  table.freeze();
  table.raise(0);
  table.raise(1);
  std::vector<std::byte> entries(table.table_bytes());
  std::vector<std::byte> bits(table.pending_bytes());
  table.copy_out(entries, bits);
  EXPECT_EQ(entries.size(), 48u);
  EXPECT_EQ(bits.size(), 1u);

  Messages there;
  MsixTable other(3, there);
  bits[0] |= std::byte{0xf8};  // of vectors that do not exist
  other.restore(entries, bits);
  other.set_control(MsixTable::kControlEnable);
  EXPECT_THAT(there.all, IsEmpty()) << "nothing runs yet";
  other.thaw();
  EXPECT_THAT(there.all, ElementsAre(Pair(0xfee00000, 33)));
  std::array<std::byte, 1> left{};
  other.read_pending(0, left);
  EXPECT_EQ(left[0], std::byte{1}) << "vector 0 is masked and still pending";
}

TEST_F(MsixTest, AccessesBeyondTheTableDoNothing) {
  std::array<std::byte, 8> bytes{};
  bytes.fill(std::byte{0xaa});
  table.write_table(44, bytes);
  table.read_table(44, bytes);
  EXPECT_EQ(bytes[0], std::byte{0});
  table.read_table(~std::uint64_t{0}, bytes);
  EXPECT_EQ(bytes[7], std::byte{0});
  table.raise(3);
  EXPECT_EQ(pending(), 0);
}

}  // namespace
}  // namespace handover::vmm
