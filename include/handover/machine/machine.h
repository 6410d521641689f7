#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "handover/base/event_loop.h"
#include "handover/base/result.h"
#include "handover/machine/run_state.h"
#include "handover/machine/vcpu.h"
#include "handover/memory/guest_memory.h"
#include "handover/stream/migratable.h"

namespace handover {

/// Follows the machine from one run state to another, in two phases: every listener's prepare() comes
/// before any listener's change() (so all devices are quiet towards each other before any is stopped,
/// mission C6).  On a stop the vCPUs have stopped before; on a start they start after.
class RunStateListener {
 public:
  virtual ~RunStateListener() = default;
  virtual std::string name() const = 0;
  /// Lower is told first on a start and last on a stop.
  virtual int priority() const { return 0; }
  virtual Status prepare(RunState from, RunState to) {
    (void)from, (void)to;
    return {};
  }
  virtual Status change(RunState from, RunState to) = 0;
  /// Fails, with the reason, while it cannot follow the machine any more: the machine must not run then.
  virtual Status fit() const { return {}; }
};

/// A machine: its memory, its vCPUs, who follows its run state, and everything of it that can migrate.
///
/// Owned by one event loop, whose thread makes every call except those marked "any thread".
class Machine {
 public:
  Machine(EventLoop& loop, GuestMemory& memory, RunState initial = RunState::prelaunch);
  ~Machine();

  EventLoop& loop() { return loop_; }
  GuestMemory& memory() { return memory_; }

  /// Any thread.
  RunState state() const { return state_.load(std::memory_order_acquire); }
  bool running() const { return state() == RunState::running; }

  /// To `running`: listeners prepare, change, then the vCPUs run.  If a listener fails, those told already
  /// are told the way back, the machine goes to internal-error, and the failure names the listener.  From
  /// there it may be tried again, but for a machine that arrived by migration: its source was told that it
  /// does not run, and may have taken the guest back.
  Status start();
  /// From `running` to a stopped state: vCPUs first, then listeners.  Every listener is told even if one
  /// fails; the machine is stopped in any case and the first failure is returned.  If a listener is not fit
  /// any more, the machine goes on to internal-error.
  Status stop(RunState to);
  /// Between two stopped states; listeners are told like on a stop, and it ends like one.
  Status set_stopped_state(RunState to);
  /// Stops the machine with internal-error if a listener is not fit() any more, and says which and why.  To
  /// be called after something that no run state follows has gone wrong, such as a migration.
  Status check_listeners();

  /// Runs `work` while no vCPU executes and lets them go on if the machine runs: for changes of what they
  /// see, as when a device comes or goes.  Nobody is told; the run state stays.
  Status at_safe_point(const std::function<Status()>& work);

  void add_vcpu(Vcpu& vcpu);
  const std::vector<Vcpu*>& vcpus() const { return vcpus_; }
  void add_listener(RunStateListener& listener);
  /// Safe to call for one that was never added (mission A6).
  void remove_listener(RunStateListener& listener);

  /// What migrates, in the order in which sections are written.
  void add_migratable(Migratable& item);
  void remove_migratable(Migratable& item);
  const std::vector<Migratable*>& migratables() const { return migratables_; }

  /// Told after each change, on the machine's thread.
  using Observer = std::function<void(RunState from, RunState to)>;
  void add_observer(Observer observer);

  /// Why the machine is in guest-panicked or internal-error; empty otherwise.  Any thread.
  std::string trouble() const;

 private:
  std::vector<RunStateListener*> in_order(bool starting) const;
  Status notify(RunState from, RunState to, bool starting);
  void enter(RunState to);
  void panicked(const std::string& who, const std::string& reason);
  void note_trouble(std::string what);

  EventLoop& loop_;
  GuestMemory& memory_;
  std::atomic<RunState> state_;
  std::vector<Vcpu*> vcpus_;
  std::vector<RunStateListener*> listeners_;
  std::vector<Migratable*> migratables_;
  std::vector<Observer> observers_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for what is posted to the loop
  bool given_back_ = false;           // it arrived, did not start, and its source has been told so
  mutable std::mutex trouble_mutex_;  // leaf
  std::string trouble_;
};

}  // namespace handover
