#pragma once

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "handover/vfio_user/device_model.h"

namespace handover::test {

/// What several devices were told, in one order.
class TransitionLog {
 public:
  using Entry = std::pair<std::string, vfio::DeviceState>;
  void add(const std::string& device, vfio::DeviceState to) {
    std::lock_guard lock(mutex_);
    entries_.emplace_back(device, to);
  }
  std::vector<Entry> take() {
    std::lock_guard lock(mutex_);
    return std::exchange(entries_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<Entry> entries_;
};

/// A device model that shows other features than it has, and writes down the states that it has reached.
class TunedModel final : public vfio_user::DeviceModel {
 public:
  TunedModel(vfio_user::DeviceModel& model, std::string name, std::uint64_t features,
             TransitionLog* log = nullptr)
      : model_(model), name_(std::move(name)), spec_(model.spec()), log_(log) {
    spec_.migration_features = features;
  }

  const vfio_user::DeviceSpec& spec() const override { return spec_; }
  void attach(vfio_user::DeviceBus& bus) override { model_.attach(bus); }
  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    return model_.region_read(index, offset, to);
  }
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    return model_.region_write(index, offset, from);
  }
  void reset(Completion done) override { model_.reset(std::move(done)); }
  void transition(vfio::DeviceState from, vfio::DeviceState to, Completion done) override {
    model_.transition(from, to, [this, to, done = std::move(done)](Status status) {
      if (status && log_) log_->add(name_, to);
      done(std::move(status));
    });
  }
  Result<std::size_t> migration_read(std::span<std::byte> to) override { return model_.migration_read(to); }
  Status migration_write(std::span<const std::byte> from) override { return model_.migration_write(from); }
  std::optional<vfio::PrecopyInfo> precopy_info() const override { return model_.precopy_info(); }
  std::optional<std::uint64_t> stop_copy_size() const override { return model_.stop_copy_size(); }
  void dma_unmapping(Iova start, std::uint64_t size, Completion done) override {
    model_.dma_unmapping(start, size, std::move(done));
  }
  void disconnected(Completion done) override { model_.disconnected(std::move(done)); }

 private:
  vfio_user::DeviceModel& model_;
  const std::string name_;
  vfio_user::DeviceSpec spec_;
  TransitionLog* log_;
};

}  // namespace handover::test
