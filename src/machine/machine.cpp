#include "handover/machine/machine.h"

#include <algorithm>

#include "handover/base/log.h"
#include "handover/base/trace.h"

namespace handover {

Machine::Machine(EventLoop& loop, GuestMemory& memory, RunState initial)
    : loop_(loop), memory_(memory), state_(initial) {
}

Machine::~Machine() {
  for (auto* vcpu : vcpus_) {
    vcpu->pause();
    vcpu->on_panic({});
  }
}

Status Machine::start() {
  const auto from = state();
  if (from == RunState::running) return {};
  if (!run_state_arc_exists(from, RunState::running))
    return fail(Errc::state, "the machine cannot run from run state {}", to_string(from));
  if (given_back_)
    return fail(Errc::state,
                "the machine arrived here and did not start, so its source may run it again ({})", trouble());
  if (auto told = notify(from, RunState::running, true); !told) {
    note_trouble(told.error().to_string());
    // A device or two may be running already: everything that follows the machine is told that it stopped.
    if (auto undone = notify(RunState::running, RunState::internal_error, false); !undone)
      log::error("while undoing a failed start: {}", undone.error().to_string());
    enter(RunState::internal_error);
    given_back_ = from == RunState::inmigrate;
    return std::unexpected(std::move(told).error().with_context("the machine does not start"));
  }
  enter(RunState::running);
  for (auto* vcpu : vcpus_)
    vcpu->resume();
  return {};
}

Status Machine::stop(RunState to) {
  const auto from = state();
  if (from != RunState::running) return set_stopped_state(to);
  if (!run_state_arc_exists(from, to))
    return fail(Errc::state, "no transition from run state {} to {}", to_string(from), to_string(to));
  HANDOVER_TRACE(machine_vcpus_pause);
  for (auto* vcpu : vcpus_)
    vcpu->pause();
  // A guest that panicked on its way to the safe point has asked for another state; that one wins.
  auto told = notify(from, to, false);
  enter(to);
  auto fit = check_listeners();
  if (!told) return std::unexpected(std::move(told).error().with_context("stopping the machine"));
  return fit;
}

Status Machine::set_stopped_state(RunState to) {
  const auto from = state();
  if (from == to) return {};
  if (to == RunState::running || !run_state_arc_exists(from, to))
    return fail(Errc::state, "no transition from run state {} to {}", to_string(from), to_string(to));
  auto told = notify(from, to, false);
  enter(to);
  auto fit = check_listeners();
  return told ? fit : told;
}

Status Machine::check_listeners() {
  for (auto* listener : listeners_) {
    auto fit = listener->fit();
    if (fit) continue;
    const auto now = state();
    // Given up, or standing still for another reason already: there is nothing more to stop.
    if (!run_state_arc_exists(now, RunState::internal_error)) return {};
    note_trouble(fit.error().to_string());
    log::error("the machine stops: {}", fit.error().to_string());
    if (auto stopped = stop(RunState::internal_error); !stopped)
      log::error("on the way to internal-error: {}", stopped.error().to_string());
    return fit;
  }
  return {};
}

Status Machine::at_safe_point(const std::function<Status()>& work) {
  if (!running()) return work();
  HANDOVER_TRACE(machine_vcpus_pause);
  for (auto* vcpu : vcpus_)
    vcpu->pause();
  auto done = work();
  for (auto* vcpu : vcpus_)
    vcpu->resume();
  return done;
}

void Machine::add_vcpu(Vcpu& vcpu) {
  vcpus_.push_back(&vcpu);
  vcpu.on_panic([this, name = vcpu.name(), alive = std::weak_ptr(alive_)](std::string reason) {
    loop_.post([this, name, alive, reason = std::move(reason)] {
      // A guest may panic while its machine is taken down.
      if (!alive.expired()) panicked(name, reason);
    });
  });
}

void Machine::add_listener(RunStateListener& listener) {
  listeners_.push_back(&listener);
}

void Machine::remove_listener(RunStateListener& listener) {
  std::erase(listeners_, &listener);
}

void Machine::add_migratable(Migratable& item) {
  migratables_.push_back(&item);
}

void Machine::remove_migratable(Migratable& item) {
  std::erase(migratables_, &item);
}

void Machine::add_observer(Observer observer) {
  observers_.push_back(std::move(observer));
}

std::string Machine::trouble() const {
  std::lock_guard lock(trouble_mutex_);
  return trouble_;
}

std::vector<RunStateListener*> Machine::in_order(bool starting) const {
  auto order = listeners_;
  std::ranges::stable_sort(order, [starting](auto* a, auto* b) {
    return starting ? a->priority() < b->priority() : a->priority() > b->priority();
  });
  return order;
}

Status Machine::notify(RunState from, RunState to, bool starting) {
  Status first;
  auto tell = [&](RunStateListener* listener, Status told) {
    if (told) return true;
    auto error = std::move(told).error().with_context(
        fmt::format("{} on the way from {} to {}", listener->name(), to_string(from), to_string(to)));
    log::error("{}", error.to_string());
    if (first) first = std::unexpected(std::move(error));
    return !starting;  // on a stop everybody is told, whatever the others say
  };
  const auto order = in_order(starting);
  for (auto* listener : order)
    if (!tell(listener, listener->prepare(from, to))) return first;
  for (auto* listener : order)
    if (!tell(listener, listener->change(from, to))) return first;
  return first;
}

void Machine::enter(RunState to) {
  const auto from = state_.exchange(to, std::memory_order_acq_rel);
  HANDOVER_TRACE(machine_run_state, to_string(from).data(), to_string(to).data());
  if (to == RunState::running || to == RunState::paused) {
    std::lock_guard lock(trouble_mutex_);
    trouble_.clear();
  }
  for (const auto& observer : observers_)
    observer(from, to);
}

void Machine::panicked(const std::string& who, const std::string& reason) {
  note_trouble(fmt::format("{}: {}", who, reason));
  log::error("guest panicked on {}: {}", who, reason);
  const auto now = state();
  if (now != RunState::running && now != RunState::finish_migrate && now != RunState::save_vm) return;
  if (auto stopped = stop(RunState::guest_panicked); !stopped)
    log::error("stopping after the guest's panic: {}", stopped.error().to_string());
}

void Machine::note_trouble(std::string what) {
  std::lock_guard lock(trouble_mutex_);
  trouble_ = std::move(what);
}

}  // namespace handover
