// Machines that are saved to files and come back, and files that are not whole.

#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "handover/migration/destination.h"
#include "handover/migration/source.h"
#include "support/temp_folder.h"
#include "unit/memory/random_seed.h"
#include "unit/migration/small_machine.h"

namespace handover {
namespace {

using test::read_whole_file;
using test::SmallMachine;
using test::TempFolder;
using test::write_whole_file;
using testing::HasSubstr;

constexpr std::uint64_t kRam = 512 * KiB;

struct Way {
  const char* name;
  bool mapped_ram = false;
  bool multifd = false;
  bool direct_io = false;
};
constexpr Way kWays[] = {{"plain"},
                         {"mapped-ram", true},
                         {"mapped-ram, several writers", true, true},
                         {"mapped-ram, direct I/O", true, false, true},
                         {"mapped-ram, several writers, direct I/O", true, true, true}};

Source::Options save_options(const Way& way = kWays[0]) {
  Source::Options options;
  options.parameters.max_bandwidth = 0;
  options.parameters.downtime_limit_ms = 60000;
  options.parameters.direct_io = way.direct_io;
  options.capabilities.mapped_ram = way.mapped_ram;
  options.capabilities.multifd = way.multifd;
  return options;
}

Address file(const std::string& path, std::uint64_t offset = 0) {
  Address address;
  address.kind = Address::Kind::file;
  address.path = path;
  address.offset = offset;
  return address;
}

/// A machine that has just come out of a file, left paused.
struct Loaded {
  explicit Loaded(const Address& from, const Way& way = kWays[0]) {
    Destination::Options options;
    options.start_paused = true;
    options.capabilities.multifd = way.multifd;
    options.parameters.direct_io = way.direct_io;
    Destination destination(machine.machine, std::move(options));
    auto listener = listen_on(from);
    EXPECT_TRUE(listener) << listener.error().to_string();
    destination.start(std::move(*listener));
    status = destination.wait();
    error = destination.error();
  }
  SmallMachine machine{kRam, RunState::inmigrate};
  MigrationStatus status;
  std::string error;
};

/// The vCPU writes its count where the count says: what was saved together must fit together.
void expect_consistent(SmallMachine& machine, const std::string& when) {
  const auto count = machine.vcpu.state().count;
  ASSERT_GT(count, 0u) << when;
  std::uint64_t there = 0;
  const Gpa at{count * 40 % (kRam - 8) / 8 * 8};
  ASSERT_TRUE(machine.memory->read(at, std::as_writable_bytes(std::span(&there, 1)))) << when;
  EXPECT_EQ(there, count) << when;
  EXPECT_EQ(machine.device.value, 42u) << when;
}

void wait_for_count(SmallMachine& machine, std::uint64_t above) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  for (std::uint64_t count = 0; count <= above;) {
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_TRUE(machine.pause());
    count = machine.vcpu.state().count;
    ASSERT_TRUE(machine.start());
  }
}

class FileMigration : public testing::Test {
 protected:
  FileMigration() {
    from.fill(3);
    EXPECT_TRUE(from.start());
    wait_for_count(from, 100);
  }
  std::string path(const char* name = "saved") const { return folder / name; }
  MigrationStatus save(const Address& to, Source::Options options = save_options()) {
    source = std::make_unique<Source>(from.machine, &from.ram_migration, std::move(options));
    source->start(to);
    return source->wait();
  }
  MigrationStatus snapshot(Source::Options options = save_options(), bool stay_stopped = false) {
    source = std::make_unique<Source>(from.machine, &from.ram_migration, std::move(options));
    source->start(SnapshotPlan{.path = path(), .stay_stopped = stay_stopped});
    return source->wait();
  }
  std::string error() const { return source->statistics().error; }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder / ""), {}));
  }

  TempFolder folder;
  SmallMachine from{kRam, RunState::prelaunch};
  std::unique_ptr<Source> source;
};

TEST_F(FileMigration, ARunningMachineIsSavedEveryWayAndComesBackWhole) {
  for (const auto& way : kWays) {
    SmallMachine machine(kRam, RunState::prelaunch);
    machine.fill(5);
    ASSERT_TRUE(machine.start());
    wait_for_count(machine, 100);
    Source saving(machine.machine, &machine.ram_migration, save_options(way));
    saving.start(file(path()));
    ASSERT_EQ(saving.wait(), MigrationStatus::completed) << way.name << ": " << saving.statistics().error;
    EXPECT_EQ(machine.machine.state(), RunState::postmigrate) << way.name;
    EXPECT_GE(saving.statistics().transferred, kRam / 2) << way.name;
    Loaded loaded(file(path()), way);
    ASSERT_EQ(loaded.status, MigrationStatus::completed) << way.name << ": " << loaded.error;
    EXPECT_TRUE(machine.same_memory(loaded.machine)) << way.name;
    EXPECT_EQ(loaded.machine.vcpu.state().count, machine.vcpu.state().count) << way.name;
    expect_consistent(loaded.machine, way.name);
  }
}

TEST_F(FileMigration, ASavedMachineCanStandInsideAnotherFile) {
  for (const auto& way : kWays) {
    write_whole_file(path(), std::string(5000, 'h') + "OLD");
    SmallMachine machine(kRam, RunState::prelaunch);
    machine.fill(5);
    ASSERT_TRUE(machine.start());
    Source saving(machine.machine, &machine.ram_migration, save_options(way));
    saving.start(file(path(), 5000));
    ASSERT_EQ(saving.wait(), MigrationStatus::completed) << way.name << ": " << saving.statistics().error;
    EXPECT_EQ(read_whole_file(path()).substr(0, 5000), std::string(5000, 'h')) << way.name;
    Loaded loaded(file(path(), 5000), way);
    ASSERT_EQ(loaded.status, MigrationStatus::completed) << way.name << ": " << loaded.error;
    EXPECT_TRUE(machine.same_memory(loaded.machine)) << way.name;
  }
}

// The configuration record of the file decides; the loading side sets nothing.
TEST_F(FileMigration, TheFileSaysHowItIsToBeRead) {
  ASSERT_EQ(snapshot(save_options(kWays[2])), MigrationStatus::completed) << error();
  EXPECT_THAT(read_whole_file(path()).substr(0, 200), HasSubstr("mapped-ram"));
  EXPECT_EQ(Loaded(file(path()), kWays[0]).status, MigrationStatus::completed);
  ASSERT_EQ(snapshot(save_options(kWays[0])), MigrationStatus::completed) << error();
  EXPECT_EQ(Loaded(file(path()), kWays[4]).status, MigrationStatus::completed);
}

TEST_F(FileMigration, WhatNeedsAFileIsRefusedElsewhereAndTheMachineRunsOn) {
  auto options = save_options(kWays[1]);
  EXPECT_EQ(save(file("/dev/null"), options), MigrationStatus::failed);
  EXPECT_THAT(error(), testing::AllOf(HasSubstr("mapped-ram"), HasSubstr("file:PATH")));
  EXPECT_TRUE(from.machine.running());
  options = save_options();
  options.capabilities.multifd = true;
  EXPECT_EQ(save(file(path()), options), MigrationStatus::failed);
  EXPECT_THAT(error(), HasSubstr("mapped-ram"));
  EXPECT_TRUE(from.machine.running());
}

TEST_F(FileMigration, ASaveThatFailsOrIsCancelledLeavesNothingThatLooksWhole) {
  for (const auto& way : {kWays[0], kWays[2]})
    for (auto at : {MigrationStatus::active, MigrationStatus::device}) {
      write_whole_file(path(), "before");
      auto options = save_options(way);
      options.on_status = [&](MigrationStatus status) {
        if (status == at) {
          std::thread([&] { EXPECT_TRUE(source->cancel()); }).join();
        }
      };
      EXPECT_EQ(save(file(path(), 6), options), MigrationStatus::cancelled) << way.name;
      EXPECT_TRUE(from.machine.running());
      EXPECT_EQ(read_whole_file(path()), "before") << way.name;
    }
}

TEST_F(FileMigration, ATornPlainFileIsRefusedWhereverItEnds) {
  std::mt19937_64 random(test::random_seed());
  ASSERT_EQ(snapshot(), MigrationStatus::completed) << error();
  const auto whole = read_whole_file(path());
  // Behind the mark there is only the description, which no machine needs.
  const auto description = whole.find("{\"configuration\"");
  ASSERT_NE(description, std::string::npos);
  const auto mark = description - 6;
  for (int round = 0; round < 120; ++round) {
    const auto length = round < 30 ? random() % 300 : round < 60 ? mark - random() % 300 : random() % mark;
    write_whole_file(path("torn"), whole.substr(0, length));
    Loaded loaded(file(path("torn")));
    ASSERT_EQ(loaded.status, MigrationStatus::failed) << "cut to " << length;
    EXPECT_EQ(loaded.machine.machine.state(), RunState::inmigrate) << "cut to " << length;
    EXPECT_THAT(loaded.error, HasSubstr("offset")) << "cut to " << length;
    EXPECT_THAT(loaded.error, HasSubstr("torn")) << "cut to " << length;
    EXPECT_THAT(loaded.error, HasSubstr("mark")) << "cut to " << length;
  }
  for (const auto length : {mark + 1, mark + 4, description + 100, whole.size()}) {
    write_whole_file(path("torn"), whole.substr(0, length));
    EXPECT_EQ(Loaded(file(path("torn"))).status, MigrationStatus::completed) << length;
  }
}

TEST_F(FileMigration, ATornMappedFileIsRefusedWhereverItEnds) {
  std::mt19937_64 random(test::random_seed());
  ASSERT_EQ(snapshot(save_options(kWays[1])), MigrationStatus::completed) << error();
  const auto whole = read_whole_file(path());
  const auto mark = whole.find("{\"configuration\"") - 6;
  for (int round = 0; round < 60; ++round) {
    const auto length = round < 20 ? mark - random() % 300 : random() % mark;
    write_whole_file(path("torn"), whole.substr(0, length));
    Loaded loaded(file(path("torn")), kWays[2]);
    ASSERT_EQ(loaded.status, MigrationStatus::failed) << "cut to " << length;
    EXPECT_EQ(loaded.machine.machine.state(), RunState::inmigrate) << "cut to " << length;
    EXPECT_THAT(loaded.error, HasSubstr("torn")) << "cut to " << length;
  }
}

// Killed in the middle of its save, a machine leaves pages and no bitmap.
TEST_F(FileMigration, AMappedFileWithoutItsEndIsRefusedEvenIfAllPagesAreThere) {
  ASSERT_EQ(snapshot(save_options(kWays[1])), MigrationStatus::completed) << error();
  auto whole = read_whole_file(path());
  whole.resize(MiB + kRam + 8);  // EOS of START
  write_whole_file(path("torn"), whole);
  Loaded loaded(file(path("torn")));
  EXPECT_EQ(loaded.status, MigrationStatus::failed);
  EXPECT_THAT(loaded.error, HasSubstr("the end of `ram`"));
}

TEST_F(FileMigration, ACapabilityThatIsNotKnownIsRefused) {
  ASSERT_EQ(snapshot(save_options(kWays[1])), MigrationStatus::completed) << error();
  auto whole = read_whole_file(path());
  const auto at = whole.find("mapped-ram");
  whole.replace(at, 10, "mapped-rom");
  write_whole_file(path("other"), whole);
  Loaded loaded(file(path("other")));
  EXPECT_EQ(loaded.status, MigrationStatus::failed);
  EXPECT_THAT(loaded.error, HasSubstr("mapped-rom"));
}

// Snapshots.

// Mission A5: the machine goes through save-vm, not through a mere stop.
TEST_F(FileMigration, ASnapshotStopsTheMachineInSaveVmAndItRunsOn) {
  std::vector<RunState> states;
  from.loop.call([&] { from.machine.add_observer([&](RunState, RunState to) { states.push_back(to); }); });
  for (const auto& way : kWays) {
    states.clear();
    ASSERT_EQ(snapshot(save_options(way)), MigrationStatus::completed) << way.name << ": " << error();
    EXPECT_THAT(states, testing::ElementsAre(RunState::save_vm, RunState::running)) << way.name;
    EXPECT_EQ(files(), 1u) << way.name;
    EXPECT_GT(source->statistics().downtime_ms, 0) << way.name;
    EXPECT_FALSE(from.memory->logging()) << way.name;
    Loaded loaded(file(path()), way);
    ASSERT_EQ(loaded.status, MigrationStatus::completed) << way.name << ": " << loaded.error;
    expect_consistent(loaded.machine, way.name);
    wait_for_count(from, loaded.machine.vcpu.state().count);
  }
  // And it can still leave for good.
  ASSERT_EQ(save(file(path("left"))), MigrationStatus::completed) << error();
  EXPECT_EQ(from.machine.state(), RunState::postmigrate);
}

TEST_F(FileMigration, APausedMachineIsSavedAsItIsAndStaysPaused) {
  ASSERT_TRUE(from.pause());
  for (int again = 0; again < 2; ++again)
    for (const auto& way : kWays) {
      ASSERT_EQ(snapshot(save_options(way)), MigrationStatus::completed) << way.name << ": " << error();
      EXPECT_EQ(from.machine.state(), RunState::paused) << way.name;
      Loaded loaded(file(path()), way);
      ASSERT_EQ(loaded.status, MigrationStatus::completed) << way.name << ": " << loaded.error;
      EXPECT_TRUE(from.same_memory(loaded.machine)) << way.name;
    }
  EXPECT_TRUE(from.start());
}

TEST_F(FileMigration, ASnapshotCanLeaveTheMachinePaused) {
  ASSERT_EQ(snapshot(save_options(), true), MigrationStatus::completed) << error();
  EXPECT_EQ(from.machine.state(), RunState::paused);
  Loaded loaded(file(path()));
  ASSERT_EQ(loaded.status, MigrationStatus::completed) << loaded.error;
  EXPECT_TRUE(from.same_memory(loaded.machine));
  EXPECT_TRUE(from.start());
}

// Every call of the machine's items fails once, the n-th for every n until nothing fails any more.
TEST_F(FileMigration, AnyFailureOfASnapshotLeavesTheMachineRunningAndNoFile) {
  for (int n = 1;; ++n) {
    from.faults.calls = 0;
    from.faults.fail_at = n;
    const auto status = snapshot();
    from.faults.fail_at = 0;
    EXPECT_TRUE(from.machine.running()) << "call " << n << ": " << error();
    EXPECT_GE(from.device.cleanups, 1);
    if (from.faults.calls < n) {
      EXPECT_EQ(status, MigrationStatus::completed) << error();
      break;
    }
    EXPECT_EQ(status, MigrationStatus::failed) << "call " << n;
    EXPECT_EQ(files(), 0u) << "call " << n;
    ASSERT_LT(n, 1000);
  }
}

TEST_F(FileMigration, ACancelledSnapshotLeavesTheOldFileAndTheMachineRunning) {
  for (const auto& way : {kWays[0], kWays[4]})
    for (auto at : {MigrationStatus::setup, MigrationStatus::active, MigrationStatus::device}) {
      write_whole_file(path(), "an older snapshot");
      auto options = save_options(way);
      options.on_status = [this, at](MigrationStatus status) {
        if (status == at) {
          std::thread([this] { EXPECT_TRUE(source->cancel()); }).join();
        }
      };
      source = std::make_unique<Source>(from.machine, &from.ram_migration, std::move(options));
      source->start(SnapshotPlan{.path = path()});
      EXPECT_EQ(source->wait(), MigrationStatus::cancelled) << way.name << " in " << to_string(at);
      EXPECT_TRUE(from.machine.running());
      EXPECT_EQ(read_whole_file(path()), "an older snapshot");
      EXPECT_EQ(files(), 1u);
    }
  ASSERT_EQ(snapshot(), MigrationStatus::completed) << error();
  EXPECT_EQ(Loaded(file(path())).status, MigrationStatus::completed);
  EXPECT_EQ(files(), 1u);
}

TEST_F(FileMigration, WhereNoFileCanBeTheSnapshotIsRefusedWithItsName) {
  auto refused = [&](const std::string& to, const std::string& part) {
    source = std::make_unique<Source>(from.machine, &from.ram_migration, save_options());
    source->start(SnapshotPlan{.path = to});
    EXPECT_EQ(source->wait(), MigrationStatus::failed) << to;
    EXPECT_THAT(error(), testing::AllOf(HasSubstr(to), HasSubstr(part)));
    EXPECT_TRUE(from.machine.running());
  };
  refused(path("no/such/folder/file"), "No such file");
  refused("/dev/null", "no regular file");
  std::filesystem::create_directory(path("folder"));
  refused(path("folder"), "no regular file");
}

TEST_F(FileMigration, WhatAKilledSnapshotLeftBehindIsTakenOver) {
  write_whole_file(path("saved.partial"), std::string(10000, 'x'));
  ASSERT_EQ(snapshot(), MigrationStatus::completed) << error();
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(Loaded(file(path())).status, MigrationStatus::completed);
}

TEST_F(FileMigration, TwoSnapshotsIntoOneNameDoNotMix) {
  SmallMachine other(kRam, RunState::prelaunch);
  ASSERT_TRUE(other.start());
  MigrationStatus second{};
  std::string why;
  auto options = save_options();
  options.on_status = [&](MigrationStatus status) {
    if (status != MigrationStatus::device) return;
    Source late(other.machine, &other.ram_migration, save_options());
    late.start(SnapshotPlan{.path = path()});
    second = late.wait();
    why = late.statistics().error;
  };
  ASSERT_EQ(snapshot(std::move(options)), MigrationStatus::completed) << error();
  EXPECT_EQ(second, MigrationStatus::failed);
  EXPECT_THAT(why, HasSubstr("being written already"));
  EXPECT_TRUE(other.machine.running());
  Loaded loaded(file(path()));
  ASSERT_EQ(loaded.status, MigrationStatus::completed) << loaded.error;
  expect_consistent(loaded.machine, "the first one's");
}

TEST_F(FileMigration, AMachineThatWasNeverStartedHasNothingToSave) {
  SmallMachine fresh(kRam, RunState::prelaunch);
  Source saving(fresh.machine, &fresh.ram_migration, save_options());
  saving.start(SnapshotPlan{.path = path()});
  EXPECT_EQ(saving.wait(), MigrationStatus::failed);
  EXPECT_THAT(saving.statistics().error, HasSubstr("prelaunch"));
  EXPECT_EQ(fresh.machine.state(), RunState::prelaunch);
  EXPECT_EQ(files(), 0u);
}

}  // namespace
}  // namespace handover
