// Streams that are cut, and devices that refuse what they are given.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "handover/base/byte_order.h"
#include "unit/memory/random_seed.h"
#include "unit/solo/solo_rig.h"

namespace handover::solo {
namespace {

using namespace test;
using testing::HasSubstr;

constexpr std::byte kVmdescription{6};

/// Where the end-of-file mark is: before the description, which nobody waits for.
std::size_t end_mark(const Bytes& stream) {
  for (std::size_t at = stream.size() - 5; at > 0; --at)
    if (stream[at] == kVmdescription &&
        load_be<std::uint32_t>(stream.data() + at + 1) == stream.size() - at - 5)
      return at - 1;
  throw std::runtime_error("no description");
}

TEST(SoloLoad, AStreamCutAnywhereIsRefusedAndTheDeviceIsResetAndCanBeLoadedAgain) {
  std::mt19937_64 random(handover::test::random_seed());
  const TempFolder folder;
  ServedToy here(folder / "here");
  ServedToy there(folder / "there");
  here.model.set_state(content(5));
  Solo from(here.socket, {});
  const auto stream = save(from);
  const auto end = end_mark(stream);
  std::vector<std::size_t> cuts = {0, 1, end - 1, end};
  for (std::size_t cut = 10; cut < 300; cut += 23)
    cuts.push_back(cut);
  for (int i = 0; i < 20; ++i)
    cuts.push_back(random() % end);
  for (const auto cut : cuts) {
    Solo into(there.socket, {.side = Side::destination});
    const auto loaded = load(into, std::span(stream).first(cut));
    EXPECT_EQ(loaded.status, MigrationStatus::failed) << cut;
    EXPECT_NE(loaded.error, "") << cut;
    const auto reset = into->abandon_load();
    ASSERT_TRUE(reset) << cut << ": " << reset.error().to_string();
    EXPECT_EQ(*reset, into->states().visited(DeviceState::resuming)) << cut;
    EXPECT_EQ(there.server->device_state(), DeviceState::running) << cut;
    EXPECT_NE(there.model.state(), content(5)) << cut;
  }
  Solo into(there.socket, {.side = Side::destination});
  // The mark alone commits; the description is for tools.
  const auto loaded = load(into, std::span(stream).first(end + 1));
  EXPECT_EQ(loaded.status, MigrationStatus::completed) << loaded.error;
  EXPECT_EQ(there.model.state(), content(5));
}

TEST(SoloLoad, AnyByteThatIsWrongIsSurvived) {
  std::mt19937_64 random(handover::test::random_seed());
  const TempFolder folder;
  ServedToy here(folder / "here");
  ServedToy there(folder / "there");
  Solo from(here.socket, {.use_precopy = false});
  const auto stream = save(from);
  for (int i = 0; i < 60; ++i) {
    auto wrong = stream;
    // Most of the stream is the device's own data, which only the device can judge.
    const auto at = i % 2 == 0 ? random() % 400 : stream.size() - 1 - random() % 2000;
    wrong[at] ^= static_cast<std::byte>(1 + random() % 255);
    Solo into(there.socket, {.side = Side::destination});
    const auto loaded = load(into, wrong);
    if (loaded.status != MigrationStatus::completed) {
      ASSERT_TRUE(into->abandon_load()) << at;
    }
    EXPECT_EQ(there.server->device_state(), DeviceState::running) << at << ": " << loaded.error;
  }
}

TEST(SoloLoad, ARunStateThatThereIsNotIsRefused) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  ServedToy there(folder / "there");
  Solo from(here.socket, {.use_precopy = false});
  auto stream = save(from);
  const auto name = std::as_bytes(std::span("running"));  // with its NUL
  const auto at = std::ranges::find_end(stream, name);
  ASSERT_FALSE(at.empty());
  at[0] = std::byte{'x'};
  Solo into(there.socket, {.side = Side::destination});
  const auto loaded = load(into, stream);
  EXPECT_EQ(loaded.status, MigrationStatus::failed);
  EXPECT_THAT(loaded.error, HasSubstr("run state 'xunning'"));
  EXPECT_TRUE(into->abandon_load().value());
  EXPECT_EQ(there.server->device_state(), DeviceState::running);
}

TEST(SoloLoad, ADeviceThatRefusesItsStateIsReset) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  ServedToy there(folder / "there");
  Solo from(here.socket, {.use_precopy = false});
  auto stream = save(from);
  // The length that its data begins with is more than what follows: found when all has come.
  std::byte length[8];
  store_le<std::uint64_t>(length, vfio_user::ToyDevice::kStateSize);
  const auto at = std::ranges::search(stream, length);
  ASSERT_FALSE(at.empty());
  at[7] = std::byte{1};
  Solo into(there.socket, {.side = Side::destination});
  const auto loaded = load(into, stream);
  EXPECT_EQ(loaded.status, MigrationStatus::failed);
  EXPECT_THAT(loaded.error, HasSubstr("does not go from resuming to stop"));
  EXPECT_TRUE(into->abandon_load().value());
  EXPECT_EQ(there.server->device_state(), DeviceState::running);
}

TEST(SoloLoad, ADeviceThatArrivesAndDoesNotStartIsReset) {
  const TempFolder folder;
  ServedToy here(folder / "here");
  ServedToy there(folder / "there");
  Solo from(here.socket, {});
  const auto stream = save(from);
  {
    // From there the way to RESUMING does not lead through the state that fails.
    Solo stopper(there.socket, {});
    ASSERT_TRUE(stopper.device->migration()->set_state(DeviceState::stop));
  }
  there.model.fail_transition_to(DeviceState::running_p2p, EIO);
  Solo into(there.socket, {.side = Side::destination});
  const auto loaded = load(into, stream);
  EXPECT_EQ(loaded.status, MigrationStatus::failed);
  EXPECT_THAT(loaded.error, HasSubstr("does not start"));
  EXPECT_EQ(there.server->device_state(), DeviceState::stop);
  EXPECT_TRUE(into->abandon_load().value());
  EXPECT_EQ(there.server->device_state(), DeviceState::running);
}

}  // namespace
}  // namespace handover::solo
