#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <iostream>

#include "unit/vmm/device_fault_device.h"
#include "unit/vmm/served_vm.h"

// Machines whose devices fail on purpose, and migrations between them with a limit to every wait.

namespace handover::test {

/// Longer than anything here takes; what lasts longer hangs.
inline constexpr std::chrono::seconds kHangs{60};

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

/// How many machines run right now, and the most that ever did at once.
struct Runners {
  void changed(RunState from, RunState to) {
    if (to == RunState::running) {
      const int now = ++running;
      int most_before = most;
      while (now > most_before && !most.compare_exchange_weak(most_before, now)) {
      }
    } else if (from == RunState::running) {
      --running;
    }
  }
  std::atomic<int> running{0};
  std::atomic<int> most{0};
};

/// What a process holds; equal before and after means that nothing was left behind.
struct Holdings {
  std::size_t descriptors = entries("/proc/self/fd");
  std::size_t threads = entries("/proc/self/task");
  static std::size_t entries(const char* folder) {
    const std::filesystem::directory_iterator all(folder);
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
  }
  bool operator==(const Holdings&) const = default;
};

/// A machine with faulty devices and their servers.
struct FaultyVm {
  static constexpr std::uint64_t kMemory = 16 * MiB;

  /// Makes the attempt; `created` says how it ended.
  FaultyVm(std::size_t count, bool incoming, std::shared_ptr<Runners> all,
           std::shared_ptr<FaultPlan> faults = std::make_shared<FaultPlan>())
      : runners(std::move(all)), plan(std::move(faults)) {
    vmm::VmConfig config;
    config.memory = kMemory;
    config.guest = {.working_set = 1 * MiB, .dirty_rate = 4 * MiB, .job_rate = 1000, .seed = 11};
    config.incoming = incoming;
    config.connect = [this](const vmm::DeviceOptions& options, GuestMemory& memory,
                            const CancelToken& cancel) -> Result<std::unique_ptr<vfio::Device>> {
      HANDOVER_ASSIGN(auto real, vmm::connect_device(options, memory, cancel));
      auto faulty = std::make_unique<FaultyDevice>(std::move(real), plan);
      devices.push_back(faulty.get());
      return faulty;
    };
    for (std::size_t i = 0; i < count; ++i) {
      const std::string id = "accel" + std::to_string(i);
      servers.push_back(
          std::make_unique<ServedAccelerator>(folder.file(id), ServedOptions{.memory = 1 * MiB, .name = id}));
      config.devices.push_back({.id = id, .socket = folder.file(id)});
    }
    created = vmm::Vm::create(config);
  }
  /// A machine that is expected, with the observer that counts who runs.
  static std::unique_ptr<FaultyVm> make(std::size_t count, bool incoming, std::shared_ptr<Runners> runners) {
    auto made = std::make_unique<FaultyVm>(count, incoming, std::move(runners));
    if (!made->created) throw std::runtime_error(made->created.error().to_string());
    made->vm = std::move(*made->created);
    made->resets_of_making = made->resets();
    made->vm->loop().call([&] {
      made->vm->machine().add_observer(
          [all = made->runners](RunState from, RunState to) { all->changed(from, to); });
    });
    return made;
  }

  Machine& machine() { return vm->machine(); }
  RunState state() { return machine().state(); }
  Status start() {
    return vm->loop().call([this] { return machine().start(); });
  }
  Status stop(RunState to = RunState::paused) {
    return vm->loop().call([this, to] { return machine().stop(to); });
  }
  template <class Condition>
  static bool wait_for(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + kHangs;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  bool do_jobs(std::uint64_t count) const {
    const std::uint64_t end = vm->guest().jobs_completed + count;
    return wait_for([&] { return vm->guest().jobs_completed >= end || !vm->guest().panic.empty(); }) &&
           vm->guest().panic.empty();
  }
  /// From now on nothing fails, but what is dead.
  void calm() {
    plan->disarm();
    for (auto* device : devices)
      device->loosen();
  }
  /// How often a device has lost its state since the machine was made.
  std::uint64_t resets() const {
    std::uint64_t all = 0;
    for (const auto* device : devices)
      all += device->resets();
    return all - resets_of_making;
  }

  /// The guest runs, its devices run with it, and both are what they were.
  void expect_whole() {
    ASSERT_EQ(state(), RunState::running) << machine().trouble();
    EXPECT_EQ(machine().trouble(), "");
    expect_devices_in(vfio::DeviceState::running);
    ASSERT_TRUE(do_jobs(20)) << "no progress; panic: " << vm->guest().panic;
    const auto verified = vm->verify(kHangs);
    ASSERT_TRUE(verified) << verified.error().to_string();
    EXPECT_EQ(verified->devices, devices.size());
    EXPECT_EQ(vm->guest().mismatches, 0u);
    EXPECT_EQ(vm->guest().interrupts_lost, 0u);
  }
  /// Both in truth and in what the machine says.
  void expect_devices_in(vfio::DeviceState wanted) {
    // On the machine's thread, so that a guest that panics does not change them at the same time.
    if (!vm->loop().in_loop()) return vm->loop().call([&] { expect_devices_in(wanted); });
    for (std::size_t i = 0; i < devices.size(); ++i) {
      const auto now = devices[i]->state_now();
      ASSERT_TRUE(now) << now.error().to_string();
      EXPECT_EQ(vfio::to_string(*now), vfio::to_string(wanted)) << "device " << i;
      EXPECT_EQ(vm->devices()[i].state, vfio::to_string(wanted)) << "device " << i;
    }
  }
  /// No device is amid anything, and none is in ERROR without a word.
  void expect_devices_settled() {
    if (!vm->loop().in_loop()) return vm->loop().call([&] { expect_devices_settled(); });
    for (std::size_t i = 0; i < devices.size(); ++i) {
      const auto now = devices[i]->state_now();
      ASSERT_TRUE(now) << now.error().to_string();
      EXPECT_TRUE(*now == vfio::DeviceState::running || *now == vfio::DeviceState::stop)
          << "device " << i << " is left in " << vfio::to_string(*now);
      EXPECT_EQ(vm->devices()[i].state, vfio::to_string(*now)) << "device " << i;
    }
  }

  std::shared_ptr<Runners> runners;
  std::shared_ptr<FaultPlan> plan;
  TemporaryFolder folder;
  std::vector<std::unique_ptr<ServedAccelerator>> servers;
  std::vector<FaultyDevice*> devices;  // the machine's own
  std::uint64_t resets_of_making = 0;
  Result<std::unique_ptr<vmm::Vm>> created = fail(Errc::state, "not made");
  std::unique_ptr<vmm::Vm> vm;
};

/// One whose guest is at work.
inline std::unique_ptr<FaultyVm> running_machine(std::size_t devices) {
  auto made = FaultyVm::make(devices, false, std::make_shared<Runners>());
  if (auto started = made->start(); !started) throw std::runtime_error(started.error().to_string());
  if (!made->do_jobs(20)) throw std::runtime_error("no jobs");
  return made;
}

/// One migration; cancelled and complained of if it hangs.
struct FaultyMove {
  FaultyMove(FaultyVm& from, FaultyVm& to, bool multifd, Source::Options with = {})
      : incoming(to.machine(), {}),
        outgoing(from.machine(), &from.vm->ram(), options(multifd, std::move(with))) {
    const auto address = Address::parse("unix:" + folder.file("migration"));
    incoming.start(listen_on(*address).value());
    outgoing.start(*address);
  }
  static Source::Options options(bool multifd, Source::Options with) {
    with.capabilities.multifd = multifd;
    with.parameters.multifd_channels = 2;
    with.parameters.downtime_limit_ms = 60'000;
    return with;
  }
  void wait() {
    if (FaultyVm::wait_for([&] { return is_final(outgoing.status()) && is_final(incoming.status()); }))
      return;
    ADD_FAILURE() << "it hangs: the source is " << handover::to_string(outgoing.status())
                  << ", the destination " << handover::to_string(incoming.status());
    (void)outgoing.cancel();
    (void)incoming.cancel();
  }
  TemporaryFolder folder;
  Destination incoming;
  Source outgoing;
};

}  // namespace handover::test
