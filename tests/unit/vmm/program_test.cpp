#include "vmm/synthetic/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "unit/memory/random_seed.h"
#include "unit/vmm/state_bytes.h"

namespace handover::vmm::synthetic {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

Registers start_registers(const GuestMemory& memory, std::uint64_t working_set) {
  Registers registers;
  registers.ram_size = memory.size();
  registers.working_set_pages = Layout::plan(memory.size(), 0, working_set).value().working_set_pages;
  registers.seed = registers.random = 42;
  registers.dirty_rate = 400 * MiB;
  return registers;
}

/// A guest without devices that is led step by step.
struct Guest {
  explicit Guest(std::uint64_t working_set = 2 * MiB) : registers(start_registers(*memory, working_set)) {}
  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      const auto done = program->step(1ms);
      ASSERT_TRUE(done) << done.error().to_string();
    }
  }
  Layout layout() const {
    return Layout::plan(memory->size(), 0, registers.working_set_pages * kPageSize).value();
  }
  std::vector<std::byte> all() const {
    const auto bytes = memory->at(Gpa{0}, memory->size());
    std::vector<std::byte> copy(bytes.size());
    std::memcpy(copy.data(), bytes.data(), bytes.size());
    return copy;
  }
  bool same(const std::vector<std::byte>& other) const {
    return std::memcmp(memory->at(Gpa{0}, memory->size()).data(), other.data(), other.size()) == 0;
  }
  std::vector<std::byte> saved() const {
    return test::bytes_of([&](StreamWriter& out) {
      Registers::description()->save(&registers, out);
      return out.status();
    });
  }

  std::unique_ptr<GuestMemory> memory = *GuestMemory::create(4 * MiB);
  AddressSpace bus{*memory};
  Registers registers;
  std::unique_ptr<Program> program = std::make_unique<Program>(*memory, bus, registers);
};

TEST(Content, PartsAreTheSameAsTheWhole) {
  std::mt19937_64 random(test::random_seed());
  for (const auto kind : {Content::Kind::blank, Content::Kind::varied, Content::Kind::plain}) {
    const Content content{kind, random()};
    std::vector<std::byte> whole(3000);
    generate(content, 0, whole);
    for (int i = 0; i < 300; ++i) {
      const std::size_t skip = random() % 2000;
      std::vector<std::byte> part(random() % 1000);
      generate(content, skip, part);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(skip)));
      EXPECT_FALSE(compare(content, skip, part));
    }
  }
}

TEST(Content, AnyFlippedBitIsFoundInItsWord) {
  std::mt19937_64 random(test::random_seed());
  for (int i = 0; i < 2000; ++i) {
    const Content content{static_cast<Content::Kind>(random() % 3), random()};
    const std::size_t skip = random() % 64;
    std::vector<std::byte> bytes(1 + random() % 200);
    generate(content, skip, bytes);
    const std::size_t at = random() % bytes.size();
    bytes[at] ^= std::byte(1u << (random() % 8));
    const auto found = compare(content, skip, bytes);
    ASSERT_TRUE(found);
    EXPECT_LE(found->offset, at);
    EXPECT_LT(at - found->offset, 8u);
    EXPECT_NE(found->expected, found->got);
  }
}

TEST(Layout, PartsDoNotOverlapAndFitForManySizes) {
  for (const std::uint64_t ram : {80 * MiB, 256 * MiB, 3 * GiB, 3 * GiB + kPageSize, 8 * GiB, 64 * GiB}) {
    for (const std::uint32_t devices : {0u, 1u, 31u}) {
      const auto layout = Layout::plan(ram, devices, 0).value();
      EXPECT_LE(kPageSize + devices * DeviceArea::kBytes, layout.table);
      EXPECT_LE(layout.table + 4 * layout.working_set_pages, layout.working_set);
      EXPECT_LE(layout.working_set + layout.working_set_pages * kPageSize, ram);
      EXPECT_GE(layout.working_set_pages * kPageSize, (ram - layout.table) / 10 * 7);
    }
  }
}

TEST(Layout, ThePagesGoOnAboveTheHole) {
  const auto layout = Layout::plan(6 * GiB, 0, 5 * GiB).value();
  const std::uint64_t last_low = (3 * GiB - layout.working_set) / kPageSize - 1;
  EXPECT_EQ(layout.page(last_low), Gpa{3 * GiB - kPageSize});
  EXPECT_EQ(layout.page(last_low + 1), Gpa{4 * GiB});
}

TEST(Layout, WhatDoesNotFitIsRefusedWithTheWayOut) {
  const auto small = Layout::plan(64 * KiB, 2, 0);
  ASSERT_FALSE(small);
  EXPECT_THAT(small.error().to_string(), HasSubstr("at least"));
  const auto large = Layout::plan(64 * MiB, 0, 64 * MiB);
  ASSERT_FALSE(large);
  EXPECT_THAT(large.error().to_string(), HasSubstr("it can have"));
  EXPECT_FALSE(Layout::plan(64 * MiB, 0, 100)) << "less than a page";
}

TEST(Program, FillsItsWorkingSetThenWritesAtTheSetRate) {
  Guest guest;
  const std::uint64_t pages = guest.registers.working_set_pages;
  guest.run(static_cast<int>(pages / 64) + 1);
  ASSERT_EQ(guest.registers.fill_next, pages);
  const std::uint64_t before = guest.registers.pages_written;
  guest.registers.dirty_rate = 10 * MiB;
  guest.registers.write_credit = 0;
  guest.run(1000);
  const auto written = guest.registers.pages_written - before;
  EXPECT_NEAR(static_cast<double>(written), 10.0 * MiB / kPageSize, 2);
  EXPECT_GT(guest.registers.pages_checked, 900u);
}

TEST(Program, CatchingUpIsBounded) {
  Guest guest;
  guest.run(static_cast<int>(guest.registers.working_set_pages / 64) + 1);
  guest.registers.dirty_rate = 1 * MiB;
  guest.registers.write_credit = 0;
  const std::uint64_t before = guest.registers.pages_written;
  const std::uint64_t clock = guest.registers.clock;
  ASSERT_TRUE(guest.program->step(std::chrono::hours(1)));
  guest.run(10);
  EXPECT_LT(guest.registers.pages_written - before, 100u) << "an hour's worth was written after a pause";
  EXPECT_LE(guest.registers.clock - clock, 111'000'000u) << "the guest's clock jumped";
}

TEST(Program, EveryWrittenPageIsLogged) {
  Guest guest;
  guest.run(20);
  guest.memory->start_logging();
  const auto before = guest.all();
  guest.run(20);
  guest.memory->stop_logging();
  const auto after = guest.all();
  auto& written = guest.memory->blocks()[0]->written();
  for (std::uint64_t page = 0; page < guest.memory->size() / kPageSize; ++page) {
    const std::uint64_t at = page * kPageSize;
    if (std::memcmp(before.data() + at, after.data() + at, kPageSize) != 0) {
      EXPECT_TRUE(written.test(page)) << "page " << page;
    }
  }
}

TEST(Program, AnyFlippedBitOfTheWorkingSetOrItsTableIsFound) {
  std::mt19937_64 random(test::random_seed());
  Guest guest;
  guest.run(200);
  ASSERT_TRUE(guest.program->check_memory());
  const Layout layout = guest.layout();
  const std::uint64_t table_bytes = layout.working_set_pages * 4;
  for (int i = 0; i < 200; ++i) {
    const bool in_table = i % 2 == 0;
    const Gpa at = in_table ? layout.table_entry(0) + random() % table_bytes
                            : layout.page(random() % layout.working_set_pages) + random() % kPageSize;
    const auto bit = static_cast<std::byte>(1u << (random() % 8));
    guest.memory->at(at, 1)[0] ^= bit;
    const auto checked = guest.program->check_memory();
    ASSERT_FALSE(checked) << "a flipped bit at " << at.value << " was not found";
    EXPECT_EQ(checked.error().code(), Errc::mismatch);
    EXPECT_THAT(checked.error().to_string(), HasSubstr("expected"));
    guest.memory->at(at, 1)[0] ^= bit;
  }
  EXPECT_TRUE(guest.program->check_memory());
}

TEST(Program, AStalePageIsFoundEvenIfItsTableIsStaleToo) {
  Guest guest;
  guest.run(100);
  const auto before = guest.all();
  guest.run(100);
  // All of memory is what it was a moment ago, registers are not.
  std::ranges::copy(before, guest.memory->at(Gpa{0}, guest.memory->size()).begin());
  const auto checked = guest.program->check_memory();
  ASSERT_FALSE(checked);
  EXPECT_THAT(checked.error().to_string(), HasSubstr("table"));
}

TEST(Program, RunningOnItFindsDamageByItself) {
  Guest guest;
  guest.registers.dirty_rate = 0;
  guest.run(100);
  const Layout layout = guest.layout();
  for (std::uint64_t page = 0; page < layout.working_set_pages; page += 2)
    guest.memory->at(layout.page(page), 1)[0] ^= std::byte{1};
  for (int i = 0; i < 1000; ++i)
    if (!guest.program->step(1ms)) break;
  EXPECT_EQ(guest.registers.mismatches, 1u);
}

TEST(Program, VerificationChecksEveryPageAndWritesNone) {
  Guest guest;
  guest.run(100);
  const auto before = guest.all();
  guest.program->begin_verification();
  for (int i = 0; i < 1000 && !guest.program->verified(); ++i)
    guest.run(1);
  ASSERT_TRUE(guest.program->verified());
  EXPECT_EQ(guest.program->verified()->pages, guest.registers.working_set_pages);
  EXPECT_TRUE(guest.same(before));
  guest.program->end_verification();
  guest.run(10);
  EXPECT_FALSE(guest.same(before)) << "the guest goes on";
}

TEST(Program, MovedAtAnyStepItGoesOnIdentically) {
  std::mt19937_64 random(test::random_seed());
  for (int round = 0; round < 5; ++round) {
    Guest here;
    here.run(1 + static_cast<int>(random() % 60));
    Guest there;
    ASSERT_TRUE(test::load_from(here.saved(), [&](StreamReader& in) {
      return Registers::description()->load(&there.registers, in, Registers::description()->version);
    }));
    ASSERT_TRUE(there.registers.check(there.memory->size()));
    std::memcpy(there.memory->at(Gpa{0}, there.memory->size()).data(), here.all().data(),
                there.memory->size());
    there.program = std::make_unique<Program>(*there.memory, there.bus, there.registers);
    here.run(40);
    there.run(40);
    EXPECT_EQ(here.saved(), there.saved());
    EXPECT_TRUE(here.same(there.all()));
  }
}

TEST(Registers, AnyByteOfTheirStateMayBeHostile) {
  std::mt19937_64 random(test::random_seed());
  Guest guest;
  guest.run(10);
  guest.registers.devices.resize(1);
  guest.registers.device_count = 1;
  guest.registers.device_limit = 1;
  guest.registers.devices[0].state = DeviceRegisters::kLost;
  guest.registers.devices[0].slot = 1;
  const auto sound = guest.saved();
  for (int i = 0; i < 300; ++i) {
    auto bytes = sound;
    for (std::uint64_t flips = 1 + random() % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    Guest there;
    Registers loaded;
    const Status read = test::load_from(bytes, [&](StreamReader& in) {
      return Registers::description()->load(&loaded, in, Registers::description()->version);
    });
    if (!read || !loaded.check(there.memory->size())) continue;
    there.registers = loaded;
    there.program = std::make_unique<Program>(*there.memory, there.bus, there.registers);
    for (int steps = 0; steps < 3; ++steps)
      if (!there.program->step(1ms)) break;  // a guest that finds itself broken is what may happen
  }
}

TEST(Registers, AGuestOfAnotherSizeIsRefused) {
  Guest guest;
  const auto checked = guest.registers.check(8 * MiB);
  ASSERT_FALSE(checked);
  EXPECT_THAT(checked.error().to_string(), HasSubstr("4 MiB"));
}

}  // namespace
}  // namespace handover::vmm::synthetic
