#include "vmm/iommu_unit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <set>

#include "unit/memory/random_seed.h"
#include "unit/vfio/recording_iommu_listener.h"
#include "unit/vmm/state_bytes.h"

namespace handover::vmm {
namespace {

using iommu::Command;
using iommu::CommandStatus;
using iommu::Operation;
using test::RecordingIommuListener;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
namespace reg = iommu::reg;

constexpr std::uint64_t kRam = 256;  // pages
constexpr std::uint64_t kRing = 0x8000;
constexpr std::uint32_t kDomain = 3;
constexpr std::size_t kMostMappings = 100;

Command attach(std::uint32_t slot, std::uint32_t domain = kDomain) {
  return {.operation = static_cast<std::uint32_t>(Operation::attach),
          .domain = domain,
          .endpoint = iommu::endpoint_of(slot)};
}
Command detach(std::uint32_t slot) {
  return {.operation = static_cast<std::uint32_t>(Operation::detach), .endpoint = iommu::endpoint_of(slot)};
}
Command map(std::uint64_t iova, std::uint64_t target, std::uint64_t pages = 1,
            std::uint32_t domain = kDomain) {
  return {.operation = static_cast<std::uint32_t>(Operation::map),
          .flags = iommu::kRead | iommu::kWrite,
          .domain = domain,
          .iova = iova * kPageSize,
          .size = pages * kPageSize,
          .target = target * kPageSize};
}
Command unmap(std::uint64_t iova, std::uint64_t pages = 1, std::uint32_t domain = kDomain) {
  return {.operation = static_cast<std::uint32_t>(Operation::unmap),
          .domain = domain,
          .iova = iova * kPageSize,
          .size = pages * kPageSize};
}

/// A unit on a bus, with devices in slots 1 and 2, as the guest's driver sees it.
struct Machine {
  explicit Machine(GuestMemory& memory) : ram(memory), behind(memory, {.max_mappings = kMostMappings}) {
    behind.add_endpoint(iommu::endpoint_of(1), first);
    behind.add_endpoint(iommu::endpoint_of(2), second);
    bus.add_window(this, iommu::kBase, iommu::kSize, unit);
  }
  template <class T>
  T load(std::uint64_t offset) {
    return bus.load<T>(iommu::kBase + offset);
  }
  template <class T>
  void store(std::uint64_t offset, T value) {
    bus.store<T>(iommu::kBase + offset, value);
  }
  void set_up(std::uint32_t entries, std::uint64_t ring = kRing) {
    store<std::uint64_t>(reg::kRingAddress, ring);
    store<std::uint32_t>(reg::kRingEntries, entries);
    tail = 0;
  }
  Gpa place(std::uint32_t number) const { return Gpa{kRing + number % load_entries * sizeof(Command)}; }
  /// Has the unit carry out commands, and returns their statuses.
  std::vector<CommandStatus> run(const std::vector<Command>& commands) {
    load_entries = load<std::uint32_t>(reg::kRingEntries);
    const auto begin = tail;
    for (const auto& command : commands)
      EXPECT_TRUE(ram.write(place(tail++), std::as_bytes(std::span(&command, 1))));
    store<std::uint32_t>(reg::kTail, tail);
    EXPECT_EQ(load<std::uint32_t>(reg::kHead), tail);
    EXPECT_EQ(load<std::uint32_t>(reg::kStatus), 0u);
    std::vector<CommandStatus> statuses;
    for (auto number = begin; number != tail; ++number) {
      Command done;
      EXPECT_TRUE(ram.read(place(number), std::as_writable_bytes(std::span(&done, 1))));
      statuses.push_back(static_cast<CommandStatus>(done.status));
      done.status = 0;
      EXPECT_EQ(std::memcmp(&done, &commands[number - begin], sizeof done), 0)
          << "only the status is written";
    }
    return statuses;
  }
  bool empty() const { return behind.mappings() == 0 && behind.state().endpoints.empty(); }

  GuestMemory& ram;
  vfio::VirtualIommu behind;
  RecordingIommuListener first, second;
  IommuUnit unit{ram, behind};
  AddressSpace bus{ram};
  std::uint32_t tail = 0;
  std::uint32_t load_entries = 0;
};

class IommuUnitTest : public testing::Test {
 protected:
  std::unique_ptr<GuestMemory> memory = GuestMemory::create(kRam * kPageSize).value();
  Machine machine{*memory};
};

TEST_F(IommuUnitTest, ItsRegistersSayWhatItIs) {
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kId), iommu::kIdValue);
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kVersion), 1u);
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kIovaBits), 48u);
  EXPECT_EQ(machine.load<std::uint64_t>(reg::kPageSizes), ~std::uint64_t{0xfff});
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kHead), 0u);
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kStatus), 0u);
  for (const auto read_only : {reg::kId, reg::kVersion, reg::kIovaBits, reg::kHead, reg::kStatus}) {
    const auto before = machine.load<std::uint32_t>(read_only);
    machine.store<std::uint32_t>(read_only, 0x12345678);
    EXPECT_EQ(machine.load<std::uint32_t>(read_only), before) << read_only;
  }
}

TEST_F(IommuUnitTest, AnAccessOfEightBytesIsOneToEachHalf) {
  machine.set_up(16);
  machine.run({detach(1), detach(1)});
  for (std::uint64_t offset = 0; offset < 0x30; offset += 8)
    EXPECT_EQ(
        machine.load<std::uint64_t>(offset),
        std::uint64_t{machine.load<std::uint32_t>(offset + 4)} << 32 | machine.load<std::uint32_t>(offset))
        << offset;
  machine.store<std::uint32_t>(reg::kRingAddress + 4, 0x11);
  machine.store<std::uint32_t>(reg::kRingAddress, 0x22000040);
  EXPECT_EQ(machine.load<std::uint64_t>(reg::kRingAddress), 0x1122000040u);
  machine.store<std::uint64_t>(reg::kRingAddress, kRing);
  EXPECT_EQ(machine.load<std::uint64_t>(reg::kRingAddress), kRing);
  machine.store<std::uint64_t>(reg::kRingEntries, std::uint64_t{2} << 32 | 8);
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kRingEntries), 8u);
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kHead), 2u) << "the tail is the upper half";
}

TEST_F(IommuUnitTest, OtherAccessesReadAsOnesAndWriteNothing) {
  machine.set_up(16);
  for (std::uint64_t offset = 0; offset < 0x30; ++offset) {
    EXPECT_EQ(machine.load<std::uint8_t>(offset), 0xff);
    EXPECT_EQ(machine.load<std::uint16_t>(offset), 0xffff);
    if (offset % 4 != 0) {
      EXPECT_EQ(machine.load<std::uint32_t>(offset), ~0u);
    }
    if (offset % 8 != 0) {
      EXPECT_EQ(machine.load<std::uint64_t>(offset), ~0ull);
    }
    machine.store<std::uint8_t>(offset, 7);
    machine.store<std::uint16_t>(offset, 7);
    if (offset % 4 != 0) machine.store<std::uint32_t>(offset, 7);
    if (offset % 8 != 0) machine.store<std::uint64_t>(offset, 7);
  }
  std::byte wide[16]{};
  machine.bus.read(iommu::kBase, wide);
  EXPECT_THAT(wide, Each(std::byte{0xff}));
  EXPECT_EQ(machine.load<std::uint64_t>(reg::kRingAddress), kRing);
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kRingEntries), 16u);
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kStatus), 0u);
}

TEST_F(IommuUnitTest, ATailWriteCarriesOutWhatIsInTheRing) {
  machine.set_up(16);
  EXPECT_THAT(machine.run({attach(1), attach(2, 9), map(10, 3, 2), map(10, 4, 1, 9)}),
              Each(CommandStatus::ok));
  EXPECT_THAT(machine.first.mappings(),
              ElementsAre(vfio::IommuMapping{Iova{0xa000}, 0x2000, Gpa{0x3000}, 3}));
  EXPECT_THAT(machine.second.mappings(),
              ElementsAre(vfio::IommuMapping{Iova{0xa000}, 0x1000, Gpa{0x4000}, 3}));
  EXPECT_THAT(machine.run({attach(2), unmap(0, 100), detach(1), map(10, 3), detach(2), map(10, 3)}),
              ElementsAre(CommandStatus::ok, CommandStatus::ok, CommandStatus::ok, CommandStatus::ok,
                          CommandStatus::ok, CommandStatus::not_found))
      << "in their order";
  EXPECT_TRUE(machine.empty());
  machine.store<std::uint32_t>(reg::kTail, machine.tail);
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kStatus), 0u) << "nothing is new";
}

TEST_F(IommuUnitTest, EveryCommandIsToldHowItWent) {
  machine.set_up(64);
  ASSERT_THAT(machine.run({attach(1), map(10, 3, 4)}), Each(CommandStatus::ok));
  auto write_only = map(50, 1);
  write_only.flags = iommu::kWrite;
  auto no_flags = map(60, 1), more_flags = map(60, 1), crooked = map(60, 1), unknown = map(60, 1);
  no_flags.flags = 0;
  more_flags.flags = 4;
  crooked.iova += 1;
  unknown.operation = 5;
  auto stranger = attach(1);
  stranger.endpoint += 1;
  EXPECT_THAT(machine.run({write_only, unmap(50), unmap(200)}), Each(CommandStatus::ok));
  EXPECT_THAT(machine.run({no_flags, more_flags, crooked, unknown, Command{}, map(60, kRam),
                           map(60, kRam - 1, 2), map(60, 1, 0), unmap(std::uint64_t{1} << 36)}),
              Each(CommandStatus::invalid));
  EXPECT_THAT(machine.run({stranger, attach(3), detach(3), map(1, 1, 1, 77), unmap(1, 1, 77)}),
              Each(CommandStatus::not_found));
  EXPECT_THAT(machine.run({map(10, 3, 4), map(13, 9), unmap(11), unmap(12, 30)}),
              Each(CommandStatus::conflict));

  machine.first.refuse = [](const vfio::IommuChange&) { return true; };
  EXPECT_THAT(machine.run({map(60, 1)}), ElementsAre(CommandStatus::device));
  machine.first.refuse_with = Errc::io;
  machine.first.refuse_errno = ENOSPC;
  EXPECT_THAT(machine.run({map(60, 1)}), ElementsAre(CommandStatus::no_space));
  machine.first.refuse_errno = EIO;
  EXPECT_THAT(machine.run({unmap(10, 4)}), ElementsAre(CommandStatus::device));
  machine.first.refuse = nullptr;

  for (std::uint64_t i = 0; i < kMostMappings; ++i)
    ASSERT_THAT(machine.run({map(1000 + i, 1)}), ElementsAre(CommandStatus::ok));
  EXPECT_THAT(machine.run({map(60, 1), unmap(1000), map(60, 1)}),
              ElementsAre(CommandStatus::no_space, CommandStatus::ok, CommandStatus::ok));
}

TEST_F(IommuUnitTest, TheRingGoesRound) {
  std::mt19937_64 random{test::random_seed()};
  for (const std::uint32_t entries : {2u, 8u, 64u, iommu::kMaxRingEntries}) {
    machine.set_up(entries);
    ASSERT_THAT(machine.run({attach(1)}), Each(CommandStatus::ok));
    std::set<std::uint64_t> mapped;
    for (int i = 0; i < 200 && !HasFailure(); ++i) {
      std::vector<Command> commands;
      std::vector<CommandStatus> expected;
      // Up to a whole ring at once.
      for (auto left = 1 + random() % entries; left > 0; --left) {
        const auto page = random() % (kMostMappings / 2);
        if (random() % 2 == 0) {
          commands.push_back(map(page, page));
          expected.push_back(mapped.insert(page).second ? CommandStatus::ok : CommandStatus::conflict);
        } else {
          commands.push_back(unmap(page));
          mapped.erase(page);
          expected.push_back(CommandStatus::ok);
        }
      }
      ASSERT_EQ(machine.run(commands), expected) << "ring of " << entries;
      ASSERT_THAT(machine.first.mappings(), SizeIs(mapped.size()));
    }
    ASSERT_THAT(machine.run({detach(1)}), Each(CommandStatus::ok));
  }
}

TEST_F(IommuUnitTest, ARingThatCannotBeUsedIsAnErrorUntilAnotherIsSet) {
  const auto failed = [&] { return machine.load<std::uint32_t>(reg::kStatus) == iommu::kStatusError; };
  for (const std::uint32_t entries : {0u, 1u, 3u, 12u, iommu::kMaxRingEntries * 2, 0x80000000u, ~0u}) {
    machine.set_up(entries);
    EXPECT_TRUE(failed()) << entries;
    machine.set_up(4);
    EXPECT_FALSE(failed());
  }
  machine.set_up(4, kRing + 8);
  EXPECT_TRUE(failed()) << "not aligned to a command";
  machine.set_up(4);
  machine.store<std::uint64_t>(reg::kRingAddress, kRing + 32);
  machine.store<std::uint32_t>(reg::kTail, 1);
  EXPECT_TRUE(failed()) << "moved later";
  machine.set_up(4);
  machine.store<std::uint32_t>(reg::kTail, 5);
  EXPECT_TRUE(failed()) << "more commands than entries";
  machine.store<std::uint32_t>(reg::kTail, 1);
  EXPECT_TRUE(failed());
  EXPECT_EQ(machine.load<std::uint32_t>(reg::kHead), 0u) << "nothing is carried out any more";
  machine.set_up(4);
  EXPECT_THAT(machine.run({attach(1)}), ElementsAre(CommandStatus::ok));
  machine.store<std::uint32_t>(reg::kTail, 0);
  EXPECT_TRUE(failed()) << "back";
}

TEST_F(IommuUnitTest, CommandsOutsideRamAreNotDone) {
  constexpr std::uint64_t kEnd = kRam * kPageSize;
  const auto command = attach(1);
  ASSERT_TRUE(memory->write(Gpa{kEnd - sizeof command}, std::as_bytes(std::span(&command, 1))));
  for (const auto ring : {kEnd, kEnd - sizeof command, ~std::uint64_t{63}, std::uint64_t{1} << 62}) {
    machine.set_up(2, ring);
    EXPECT_EQ(machine.load<std::uint32_t>(reg::kStatus), 0u);
    machine.store<std::uint32_t>(reg::kTail, 2);
    EXPECT_EQ(machine.load<std::uint32_t>(reg::kStatus), iommu::kStatusError);
    EXPECT_EQ(machine.load<std::uint32_t>(reg::kHead), 0u) << "the head counts what was done";
    EXPECT_TRUE(machine.empty());
  }
}

class IommuUnitState : public IommuUnitTest {
 protected:
  static constexpr std::size_t kRingAt = 0, kEntriesAt = 8, kHeadAt = 12;

  static std::vector<std::byte> saved(Machine& from) {
    return test::bytes_of([&](StreamWriter& out) { return from.unit.save_state(out); });
  }
  static Status load(Machine& to, std::vector<std::byte> bytes) {
    return test::load_from(std::move(bytes), [&](StreamReader& in) { return to.unit.load_state(in, 1); });
  }
  Machine other{*memory};
};

TEST_F(IommuUnitState, GoesOnWhereItWas) {
  machine.set_up(4);
  ASSERT_THAT(machine.run({attach(1), map(10, 3), map(20, 4)}), Each(CommandStatus::ok));
  const auto bytes = saved(machine);
  ASSERT_TRUE(load(other, bytes));
  EXPECT_EQ(saved(other), bytes);
  EXPECT_EQ(other.first.mappings(), machine.first.mappings());
  other.tail = machine.tail;
  EXPECT_THAT(other.run({unmap(10), map(10, 9), map(20, 9)}),
              ElementsAre(CommandStatus::ok, CommandStatus::ok, CommandStatus::conflict));
  EXPECT_TRUE(other.unit.goes_before_devices()) << "their DMA needs it";
}

TEST_F(IommuUnitState, OneThatTheGuestNeverUsedTravelsToo) {
  ASSERT_TRUE(load(other, saved(machine)));
  EXPECT_EQ(other.load<std::uint32_t>(reg::kStatus), 0u);
  EXPECT_TRUE(other.empty());
}

TEST_F(IommuUnitState, AnErrorTravels) {
  machine.set_up(3);
  ASSERT_TRUE(load(other, saved(machine)));
  EXPECT_EQ(other.load<std::uint32_t>(reg::kStatus), iommu::kStatusError);
  EXPECT_EQ(other.load<std::uint32_t>(reg::kRingEntries), 3u);
}

TEST_F(IommuUnitState, CountersRunOnBeyondTheirWidth) {
  machine.set_up(8);
  ASSERT_THAT(machine.run({attach(1)}), Each(CommandStatus::ok));
  auto bytes = saved(machine);
  store_be(bytes.data() + kHeadAt, std::uint32_t{0xfffffffd});
  ASSERT_TRUE(load(other, bytes));
  other.tail = 0xfffffffd;
  EXPECT_THAT(other.run({map(1, 1), map(2, 1), map(3, 1), map(4, 1), map(4, 1), unmap(1)}),
              ElementsAre(CommandStatus::ok, CommandStatus::ok, CommandStatus::ok, CommandStatus::ok,
                          CommandStatus::conflict, CommandStatus::ok));
  EXPECT_EQ(other.load<std::uint32_t>(reg::kHead), 3u);
}

TEST_F(IommuUnitState, ARingThatMakesNoSenseIsRefused) {
  machine.set_up(8);
  const auto valid = saved(machine);
  auto entries = valid, ring = valid;
  store_be(entries.data() + kEntriesAt, std::uint32_t{0x80000000});
  store_be(ring.data() + kRingAt, std::uint64_t{kRing + 4});
  for (const auto& bytes : {entries, ring}) {
    const auto loaded = load(other, bytes);
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code(), Errc::protocol);
    EXPECT_THAT(loaded.error().to_string(), HasSubstr("the command ring of the guest's IOMMU"));
  }
  EXPECT_EQ(other.load<std::uint32_t>(reg::kRingEntries), 0u) << "nothing of it is taken";
  EXPECT_FALSE(test::load_from(valid, [&](StreamReader& in) { return other.unit.load_state(in, 2); }));
}

TEST_F(IommuUnitState, MappingsThatMakeNoSenseLeaveNothingAttached) {
  machine.set_up(8);
  ASSERT_THAT(machine.run({attach(1), map(10, 3)}), Each(CommandStatus::ok));
  auto bytes = saved(machine);
  const auto small = GuestMemory::create(2 * kPageSize).value();
  Machine less(*small);
  const auto loaded = load(less, bytes);
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().to_string(), HasSubstr("the mappings of the guest's IOMMU: IOMMU domain 3"));
  EXPECT_TRUE(less.empty());
  EXPECT_THAT(less.first.mappings(), IsEmpty());
}

TEST_F(IommuUnitState, FlippedBitsNeverBreakIt) {
  std::mt19937_64 random{test::random_seed()};
  machine.set_up(8);
  ASSERT_THAT(machine.run({attach(1), attach(2), map(10, 3), map(20, 4)}), Each(CommandStatus::ok));
  const auto valid = saved(machine);
  int refused = 0, taken = 0;
  for (int i = 0; i < 5000 && !HasFailure(); ++i) {
    auto bytes = valid;
    for (auto flips = 1 + random() % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] ^= std::byte{1} << random() % 8;
    if (random() % 10 == 0) bytes.resize(random() % bytes.size());
    Machine to(*memory);
    if (!load(to, bytes)) {
      ++refused;
      ASSERT_TRUE(to.empty());
      continue;
    }
    ++taken;
    // Whatever it is now, the guest can go on with it and start anew.
    to.store<std::uint32_t>(reg::kTail, to.load<std::uint32_t>(reg::kHead) + 2);
    to.set_up(8);
    ASSERT_THAT(to.run({detach(1), detach(2)}), Each(CommandStatus::ok));
    ASSERT_TRUE(to.empty());
  }
  EXPECT_GT(refused, 50);
  EXPECT_GT(taken, 50);
}

}  // namespace
}  // namespace handover::vmm
