#include "handover/solo/solo_machine.h"

#include <limits>

#include "handover/base/log.h"
#include "solo/device_identity.h"
#include "solo/observed_migration.h"
#include "solo/pci_config.h"

namespace handover::solo {
namespace {

using vfio::DeviceState;

/// Where the device's sections are, whatever it is called on either side.
constexpr const char* kPath = "device";

/// The largest limit that there is: whatever is left is sent.
constexpr std::uint64_t kAnyDowntimeMs = 2'000'000;

RunState initial_state(SoloOptions::Side side, DeviceState found) {
  if (side == SoloOptions::Side::destination) return RunState::inmigrate;
  return found == DeviceState::running ? RunState::running : RunState::paused;
}

/// A source's device must be where its state can be read from; a destination's loses its own anyway.
Result<DeviceState> settle(vfio::Device& device, SoloOptions::Side side) {
  HANDOVER_ASSIGN(const auto found, device.migration()->state());
  if (found == DeviceState::running || found == DeviceState::stop) return found;
  if (side == SoloOptions::Side::source)
    return fail(Errc::state, "device `{}` is in state {}; it must be running or stopped to be moved",
                device.id(), to_string(found));
  log::warn("device `{}` is in state {}; it is reset", device.id(), to_string(found));
  HANDOVER_TRY_CONTEXT(device.reset(), "device `{}` is in state {}", device.id(), to_string(found));
  return device.migration()->state();
}

Status check(const vfio::Device& device, std::uint64_t features, const SoloOptions& options) {
  if (!options.rounds) return {};
  if (*options.rounds == 0 || !options.use_precopy)
    return fail(Errc::invalid_argument, "without pre-copy there are no rounds of it");
  if ((features & vfio::kMigrationPreCopy) == 0)
    return fail(Errc::unsupported, "device `{}` has no pre-copy, so there are no rounds to make",
                device.id());
  return {};
}

}  // namespace

struct SoloMachine::Impl {
  Impl(vfio::Device& device_of, GuestMemory& memory, const SoloOptions& with, DeviceState at,
       PciHeader header)
      : device(device_of),
        options(with),
        found(at),
        machine(loop, memory, initial_state(with.side, at)),
        identity(device.id(), DeviceShape::of(device, header)),
        whole_machine(identity),
        config(device, std::move(header)),
        migration(device, config, kPath, StopPolicy(with.rounds, with.downtime_limit_ms)),
        times(at) {
    migration.found_in(at);
    if (!options.use_precopy) migration.leave_out_precopy();
    migration.observe_states(
        [this](DeviceState, DeviceState to, std::chrono::nanoseconds took) { times.arrived(to, took); });
    machine.add_migratable(identity);
    if (options.side == SoloOptions::Side::destination) machine.add_migratable(whole_machine);
    machine.add_migratable(migration);
    machine.add_listener(migration);
    loop.start_thread();
  }
  ~Impl() { loop.stop(); }

  vfio::Device& device;
  const SoloOptions options;
  const DeviceState found;
  EventLoop loop{"machine"};
  Machine machine;
  DeviceIdentity identity;
  WholeMachine whole_machine;
  PciConfig config;
  ObservedMigration migration;
  StateTimes times;
};

SoloMachine::SoloMachine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
}

SoloMachine::~SoloMachine() = default;

Result<std::unique_ptr<SoloMachine>> SoloMachine::create(vfio::Device& device, GuestMemory& memory,
                                                         SoloOptions options) {
  if (!device.migration())
    return fail(Errc::unsupported, "device `{}` cannot migrate: {}", device.id(), device.migration_blocker());
  HANDOVER_TRY(check(device, device.migration()->features(), options));
  HANDOVER_ASSIGN(const auto found, settle(device, options.side));
  if (options.rounds && found != DeviceState::running)
    return fail(Errc::state, "device `{}` is in state {}; only one that runs can make rounds of pre-copy",
                device.id(), to_string(found));
  HANDOVER_ASSIGN(auto header, PciHeader::read(device));
  return std::unique_ptr<SoloMachine>(
      new SoloMachine(std::make_unique<Impl>(device, memory, options, found, std::move(header))));
}

Machine& SoloMachine::machine() {
  return impl_->machine;
}

vfio::Device& SoloMachine::device() {
  return impl_->device;
}

DeviceState SoloMachine::found_in() const {
  return impl_->found;
}

DeviceState SoloMachine::device_state() const {
  return impl_->migration.last_state();
}

Parameters SoloMachine::parameters(Parameters wanted) const {
  const auto& options = impl_->options;
  // The device holds the switchover itself, for as long as reading it would take; what is left to the engine
  // is how long loading takes, and the link counts as endless.
  wanted.avail_switchover_bandwidth = std::numeric_limits<std::uint64_t>::max();
  const bool precopy = options.use_precopy && impl_->found == DeviceState::running &&
                       (impl_->device.migration()->features() & vfio::kMigrationPreCopy) != 0;
  wanted.downtime_limit_ms = options.rounds || !precopy ? kAnyDowntimeMs : options.downtime_limit_ms;
  return wanted;
}

Status SoloMachine::run() {
  return impl_->loop.call([&]() -> Status {
    auto& machine = impl_->machine;
    // The only way from there leads through paused.
    if (machine.state() == RunState::postmigrate || machine.state() == RunState::internal_error)
      HANDOVER_TRY(machine.set_stopped_state(RunState::paused));
    return machine.start();
  });
}

Result<bool> SoloMachine::abandon_load() {
  auto& self = *impl_;
  if (!self.times.visited(DeviceState::resuming) || self.device.lost()) return false;
  // The engine resets a device that was still in RESUMING.
  if (self.migration.last_state() == DeviceState::running && !self.machine.running()) return true;
  return self.loop.call([&]() -> Result<bool> {
    HANDOVER_TRY_CONTEXT(self.device.reset(), "device `{}` cannot be reset after an incomplete load",
                         self.device.id());
    self.times.arrived(DeviceState::running, {});
    self.migration.found_in(DeviceState::running);
    return true;
  });
}

const StateTimes& SoloMachine::states() const {
  return impl_->times;
}

DeviceFigures SoloMachine::figures() const {
  return impl_->migration.figures();
}

}  // namespace handover::solo
