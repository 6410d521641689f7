#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "handover/machine/machine.h"
#include "handover/memory/ram_migration.h"

/// A whole small machine for the engine's tests: RAM, a vCPU thread that writes it, a device-like live item.
namespace handover::test {

/// Fails its n-th call, over all calls of one machine's items.
struct FaultPlan {
  int fail_at = 0;  // 0: never
  std::atomic<int> calls{0};
  Status hit(std::string_view what) {
    if (++calls == fail_at) return fail(Errc::device, "injected failure in {}", what);
    return {};
  }
};

/// A vCPU that counts and writes its count into pages, from a thread of its own.
class WritingVcpu final : public Vcpu {
 public:
  class Registers final : public StateItem {
   public:
    explicit Registers(FaultPlan& faults) : faults_(faults) {}
    std::string section_name() const override { return "test-vcpu"; }
    const vmstate::Description* description() const override {
      static const auto description =
          vmstate::Describe<Registers>("test-vcpu", 1).field("count", &Registers::count).done();
      return description.get();
    }
    Status save_state(StreamWriter& out) override {
      HANDOVER_TRY(faults_.hit("save_state of the vCPU"));
      return StateItem::save_state(out);
    }
    Status load_state(StreamReader& in, std::uint32_t version) override {
      HANDOVER_TRY(faults_.hit("load_state of the vCPU"));
      return StateItem::load_state(in, version);
    }
    std::uint64_t count = 0;

   protected:
    void* mutable_object() const override { return const_cast<Registers*>(this); }

   private:
    FaultPlan& faults_;
  };

  WritingVcpu(GuestMemory& memory, FaultPlan& faults)
      : memory_(memory), registers_(faults), thread_([this](std::stop_token stop) { run(stop); }) {}
  ~WritingVcpu() override {
    thread_.request_stop();
    changed_.notify_all();
  }

  std::string name() const override { return "vcpu0"; }
  void resume() override {
    std::lock_guard lock(mutex_);
    running_ = true;
    changed_.notify_all();
  }
  void pause() override {
    std::unique_lock lock(mutex_);
    running_ = false;
    changed_.wait(lock, [&] { return !stepping_; });
  }
  Registers& state() override { return registers_; }
  void on_panic(std::function<void(std::string)> handler) override { panic_ = std::move(handler); }

 private:
  void run(std::stop_token stop) {
    while (!stop.stop_requested()) {
      {
        std::unique_lock lock(mutex_);
        stepping_ = false;
        changed_.notify_all();
        changed_.wait(lock, stop, [&] { return running_; });
        stepping_ = running_;
        if (!running_) continue;
      }
      const std::uint64_t value = ++registers_.count;
      const Gpa at{value * 40 % (memory_.size() - 8) / 8 * 8};
      memory_.write(at, std::as_bytes(std::span(&value, 1)));
      std::this_thread::yield();
    }
  }

  GuestMemory& memory_;
  Registers registers_;
  std::function<void(std::string)> panic_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool running_ = false;
  bool stepping_ = false;
  std::jthread thread_;
};

/// A live item with a few bytes of state, and a run-state listener, like a device.
class LiveItem final : public Migratable, public RunStateListener {
 public:
  explicit LiveItem(FaultPlan& faults) : faults_(faults) {}
  std::string section_name() const override { return "test-device"; }
  std::string display_name() const override { return "test device"; }
  std::uint32_t version_id() const override { return 1; }
  bool is_live() const override { return true; }
  Status prepare() override { return faults_.hit("prepare"); }
  Status save_setup(StreamWriter& out, const SaveOptions&) override {
    HANDOVER_TRY(faults_.hit("save_setup"));
    turns_left_ = 3;
    out.be64(0);
    return out.status();
  }
  Result<Pending> pending(bool) override {
    HANDOVER_TRY(faults_.hit("pending"));
    return Pending{.must_stop = 8, .hold_switchover = turns_left_ > 0};
  }
  Result<Iterated> save_iterate(StreamWriter& out, const IterateBudget&) override {
    HANDOVER_TRY(faults_.hit("save_iterate"));
    out.be64(1);
    return turns_left_-- > 0 ? Iterated::more : Iterated::nothing_now;
  }
  Status save_complete(StreamWriter& out) override {
    HANDOVER_TRY(faults_.hit("save_complete"));
    out.be64(value);
    return out.status();
  }
  Status load_setup(const LoadOptions&) override { return faults_.hit("load_setup"); }
  Status load_live(StreamReader& in, std::uint32_t) override {
    HANDOVER_TRY(faults_.hit("load_live"));
    HANDOVER_ASSIGN(value, in.be64());
    return {};
  }
  Status switchover_start() override { return faults_.hit("switchover_start"); }
  Status load_finish() override { return faults_.hit("load_finish"); }
  void cleanup() override { ++cleanups; }

  std::string name() const override { return "test device"; }
  Status prepare(RunState, RunState to) override { return on_change(to, "prepare for a run state"); }
  Status change(RunState, RunState to) override { return on_change(to, "change of run state"); }

  std::uint64_t value = 0;
  std::atomic<int> cleanups{0};

 private:
  Status on_change(RunState to, std::string_view what) {
    // The way back to running must work: what is tested is the way there.
    return to == RunState::running ? Status{} : faults_.hit(what);
  }
  FaultPlan& faults_;
  int turns_left_ = 0;
};

struct SmallMachine {
  explicit SmallMachine(std::uint64_t ram, RunState initial)
      : memory(std::move(*GuestMemory::create(ram))), machine(loop, *memory, initial) {
    loop.start_thread();
    ram_migration.add_dirty_source(writes);
    machine.add_vcpu(vcpu);
    machine.add_listener(device);
    machine.add_migratable(ram_migration);
    machine.add_migratable(device);
    machine.add_migratable(vcpu.state());
    device.value = 42;
  }
  Status start() {
    return loop.call([&] { return machine.start(); });
  }
  Status pause() {
    return loop.call([&] { return machine.stop(RunState::paused); });
  }
  void fill(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (std::uint64_t page = 0; page < memory->size() / kPageSize; ++page) {
      if (page % 3 == 0) continue;  // some stay zero
      auto* words = reinterpret_cast<std::uint64_t*>(memory->at(Gpa{page * kPageSize}, kPageSize).data());
      for (std::size_t i = 0; i < kPageSize / 8; ++i)
        words[i] = random();
    }
  }
  bool same_memory(const SmallMachine& other) const {
    return std::ranges::equal(memory->at(Gpa{0}, memory->size()),
                              other.memory->at(Gpa{0}, other.memory->size()));
  }

  FaultPlan faults;
  EventLoop loop{"machine"};
  std::unique_ptr<GuestMemory> memory;
  ProcessWrites writes{*memory};
  RamMigration ram_migration{*memory};
  WritingVcpu vcpu{*memory, faults};
  LiveItem device{faults};
  Machine machine;
};

}  // namespace handover::test
