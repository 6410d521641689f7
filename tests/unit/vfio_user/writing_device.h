#pragma once

#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "handover/vfio_user/device_model.h"

namespace handover::vfio_user {

/// A device that does nothing but write into guest memory, at full speed, from its start until it is in a
/// state in which it must not: in pre-copy, in the P2P states, up to STOP.
///
/// Every write has content of its own.  Where it writes is said by `target`: any addresses, mapped or not.
class WritingDevice final : public DeviceModel {
 public:
  struct Place {
    Iova iova;
    std::size_t size = 0;  ///< at most kMost
  };
  static constexpr std::size_t kMost = 3 * 4096;

  /// `target` is called by the device's thread.
  explicit WritingDevice(std::function<Place(std::mt19937_64&)> target, std::uint64_t seed)
      : target_(std::move(target)), random_(seed) {
    spec_.name = "writer";
    spec_.regions[vfio::kRegionConfig] = {0x100, vfio::kRegionRead | vfio::kRegionWrite, -1, 0, {}};
    spec_.migration_features = vfio::kMigrationStopCopy | vfio::kMigrationP2p | vfio::kMigrationPreCopy;
    spec_.dma_logging = true;
    thread_ = std::thread([this] { work(); });
  }
  ~WritingDevice() override {
    quit_ = true;
    thread_.join();
  }

  std::uint64_t writes() const { return writes_; }
  std::uint64_t faults() const { return faults_; }

  const DeviceSpec& spec() const override { return spec_; }
  void attach(DeviceBus& bus) override { bus_ = &bus; }
  Status region_read(std::uint32_t, std::uint64_t, std::span<std::byte> to) override {
    std::ranges::fill(to, std::byte{0});
    return {};
  }
  Status region_write(std::uint32_t, std::uint64_t, std::span<const std::byte>) override { return {}; }
  void reset(Completion done) override {
    may_write_ = true;
    done({});
  }
  void transition(vfio::DeviceState, vfio::DeviceState to, Completion done) override {
    using enum vfio::DeviceState;
    const bool may = to == running || to == running_p2p || to == pre_copy || to == pre_copy_p2p;
    may_write_ = may;
    const std::lock_guard wait_for_the_write_under_way(writing_);
    done({});
  }
  Result<std::size_t> migration_read(std::span<std::byte>) override { return 0; }
  Status migration_write(std::span<const std::byte>) override { return {}; }
  void disconnected(Completion done) override {
    quit_ = true;
    const std::lock_guard wait_for_the_write_under_way(writing_);
    done({});
  }

 private:
  void work() {
    std::vector<std::byte> content(kMost);
    while (!quit_) {
      if (!may_write_ || !bus_) {
        std::this_thread::yield();
        continue;
      }
      // Hardware would take no processor from those who have work for it.
      if (writes_ % 8 == 0) std::this_thread::yield();
      const auto place = target_(random_);
      const auto value = random_();
      for (std::size_t i = 0; i + sizeof value <= place.size; i += sizeof value)
        std::memcpy(content.data() + i, &value, sizeof value);
      std::lock_guard lock(writing_);
      if (!may_write_ || quit_) continue;
      if (bus_.load()->dma_write(place.iova, std::span(content).first(place.size)))
        ++writes_;
      else
        ++faults_;
    }
  }

  DeviceSpec spec_;
  std::function<Place(std::mt19937_64&)> target_;
  std::mt19937_64 random_;
  std::atomic<DeviceBus*> bus_ = nullptr;
  std::atomic<bool> quit_{false};
  std::atomic<bool> may_write_{true};
  std::atomic<std::uint64_t> writes_{0};
  std::atomic<std::uint64_t> faults_{0};
  std::mutex writing_;
  std::thread thread_;
};

}  // namespace handover::vfio_user
