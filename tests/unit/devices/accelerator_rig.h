#pragma once

#include <gtest/gtest.h>

#include <future>
#include <memory>

#include "devices/accelerator/accelerator.h"
#include "unit/devices/machine_double.h"

namespace handover::accelerator::test {

using vfio::DeviceState;

/// One accelerator on a bus, called as the server calls it: from one thread, waiting for each completion.
class Rig {
 public:
  explicit Rig(GuestRam& ram, std::uint64_t memory_size = 4 * MiB) : bus(ram) {
    auto made = Accelerator::create({.name = "accelerator", .memory_size = memory_size});
    EXPECT_TRUE(made) << made.error().to_string();
    model = std::move(*made);
    model->attach(bus);
  }
  ~Rig() { bus.unblock(); }

  Status go(DeviceState to) {
    std::promise<Status> promise;
    model->transition(state, to, [&](Status status) { promise.set_value(std::move(status)); });
    Status status = promise.get_future().get();
    if (status) state = to;
    return status;
  }
  /// Walks single arcs; each must succeed.
  void walk(std::initializer_list<DeviceState> path) {
    for (DeviceState to : path) {
      const Status status = go(to);
      ASSERT_TRUE(status) << vfio::to_string(to) << ": " << status.error().to_string();
    }
  }
  Status reset() {
    std::promise<Status> promise;
    model->reset([&](Status status) { promise.set_value(std::move(status)); });
    Status status = promise.get_future().get();
    if (status) state = DeviceState::running;
    return status;
  }

  void write(std::uint64_t offset, std::uint64_t value, std::size_t width = 4, std::uint32_t region = 0) {
    std::byte bytes[8];
    store_le(bytes, value);
    EXPECT_TRUE(model->region_write(region, offset, std::span(bytes).first(width)));
  }
  std::uint64_t read(std::uint64_t offset, std::size_t width = 4, std::uint32_t region = 0) {
    std::byte bytes[8]{};
    EXPECT_TRUE(model->region_read(region, offset, std::span(bytes).first(width)));
    return load_le<std::uint64_t>(bytes);
  }

  Bus bus;  // outlives the model
  std::unique_ptr<Accelerator> model;
  DeviceState state = DeviceState::running;
};

/// What a guest's driver does: it sees the device's registers, whichever rig they are in at the moment.
class Driver {
 public:
  Driver(GuestRam& ram, Rig& rig) : ram_(ram), rig_(&rig) {}

  void enable(std::uint32_t control = kControlEnable | kControlInterrupt) {
    rig_->write(reg::kRingAddress, 0, 8);
    rig_->write(reg::kCompletionAddress, GuestRam::kCompletionRing, 8);
    rig_->write(reg::kRingEntries, GuestRam::kEntries);
    rig_->write(reg::kControl, control);
    submitted_ = 0;
    completed_before_ = ram_.records().size();
  }
  void put(const Descriptor& descriptor) {
    // Never more than the ring holds.
    if (submitted_ >= GuestRam::kEntries) wait(submitted_ - GuestRam::kEntries + 1);
    ram_.copy_in(submitted_ % GuestRam::kEntries * sizeof descriptor,
                 std::as_bytes(std::span(&descriptor, 1)));
    ++submitted_;
  }
  void ring() { rig_->write(reg::kDoorbell, submitted_); }
  void submit(const Descriptor& descriptor) {
    put(descriptor);
    ring();
  }
  void wait(std::size_t jobs) { ram_.wait_records(completed_before_ + jobs); }
  void wait_all() { wait(submitted_); }
  /// True if submitting another job would have to wait.
  bool full() { return submitted_ - (ram_.records().size() - completed_before_) >= GuestRam::kEntries; }
  std::vector<CompletionRecord> records() {
    auto all = ram_.records();
    return {all.begin() + static_cast<std::ptrdiff_t>(completed_before_), all.end()};
  }
  void move_to(Rig& rig) { rig_ = &rig; }

 private:
  GuestRam& ram_;
  Rig* rig_;
  std::uint32_t submitted_ = 0;
  std::size_t completed_before_ = 0;
};

inline Descriptor job(std::uint64_t id, Operation operation, std::uint64_t guest, std::uint64_t device,
                      std::uint64_t length, std::uint64_t pattern = 0) {
  Descriptor out{};
  out.id = id;
  out.operation = static_cast<std::uint32_t>(operation);
  out.guest_address = guest;
  out.device_offset = device;
  out.length = length;
  out.pattern = pattern;
  return out;
}

}  // namespace handover::accelerator::test
