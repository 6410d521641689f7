#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "handover/base/byte_reader.h"
#include "handover/base/byte_writer.h"
#include "handover/vfio_user/device_model.h"

namespace handover::vfio_user {

inline UniqueFd make_memfd(std::uint64_t size, unsigned seals = 0) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return UniqueFd();
  if (seals) ::fcntl(fd.get(), F_ADD_SEALS, seals);
  return fd;
}

/// A small device with everything that a server has to deal with: a thread of its own that does DMA and
/// finishes what the server asked for later, memory that clients may map, interrupts, and migration.
///
/// BAR0 (messages): 0x00 u64 DMA address, 0x08 u32 length, 0x0c u32 command (1: write `pattern` bytes, 2:
/// read and remember), 0x10 u32 result (1 busy, 2 ok, 3 failed), 0x14 u32 pattern; from 0x100 plain memory.
/// Interrupt 0 of MSI-X is raised when a DMA command has ended.
/// Migration stream: any number of records of u64 length and that many bytes; the last one wins.
class ToyDevice final : public DeviceModel {
 public:
  static constexpr std::uint64_t kBar0 = 0x1000, kBar2 = 0x4000, kConfig = 0x100;
  static constexpr std::size_t kStateSize = 150000;

  explicit ToyDevice(std::uint64_t features = vfio::kMigrationStopCopy | vfio::kMigrationP2p |
                                              vfio::kMigrationPreCopy)
      : memory_(make_memfd(kBar2)), bar0_(kBar0), config_(kConfig), state_(kStateSize) {
    spec_.name = "toy";
    spec_.regions[vfio::kRegionBar0] = {kBar0, vfio::kRegionRead | vfio::kRegionWrite, -1, 0, {}};
    spec_.regions[2] = {kBar2,
                        vfio::kRegionRead | vfio::kRegionWrite,
                        memory_.get(),
                        0,
                        {{0x1000, 0x1000}, {0x3000, 0x1000}}};
    spec_.regions[vfio::kRegionRom] = {0x800, vfio::kRegionRead, -1, 0, {}};
    spec_.regions[vfio::kRegionConfig] = {kConfig, vfio::kRegionRead | vfio::kRegionWrite, -1, 0, {}};
    const std::uint32_t counts[] = {1, 0, 4, 1, 1};
    std::copy(std::begin(counts), std::end(counts), spec_.irq_counts);
    spec_.migration_features = features;
    spec_.dma_logging = true;
    for (std::size_t i = 0; i < state_.size(); ++i)
      state_[i] = static_cast<std::byte>(7 * i);
    worker_ = std::thread([this] { work(); });
  }
  ~ToyDevice() override {
    post(nullptr);
    worker_.join();
  }

  const DeviceSpec& spec() const override { return spec_; }
  void attach(DeviceBus& bus) override { bus_ = &bus; }
  DeviceBus& bus() { return *bus_; }

  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    std::lock_guard lock(mutex_);
    if (index == 2) {
      if (::pread(memory_.get(), to.data(), to.size(), static_cast<off_t>(offset)) < 0)
        return fail(Errc::io, "pread");
    } else if (index == vfio::kRegionRom) {
      std::fill(to.begin(), to.end(), std::byte{0x55});
    } else {
      const auto& bytes = index == vfio::kRegionConfig ? config_ : bar0_;
      std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
    }
    return {};
  }
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    std::lock_guard lock(mutex_);
    if (index == 2)
      return ::pwrite(memory_.get(), from.data(), from.size(), static_cast<off_t>(offset)) < 0
                 ? Status(fail(Errc::io, "pwrite"))
                 : Status();
    auto& bytes = index == vfio::kRegionConfig ? config_ : bar0_;
    std::copy(from.begin(), from.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    if (index == vfio::kRegionBar0 && offset == 0x0c && from.size() == 4) {
      store_le<std::uint32_t>(bar0_.data() + 0x10, 1);
      post([this] { do_dma(); });
    }
    return {};
  }

  void reset(Completion done) override {
    finish_later(
        [this] {
          std::lock_guard lock(mutex_);
          std::fill(bar0_.begin(), bar0_.end(), std::byte{0});
          incoming_.clear();
        },
        std::move(done));
  }

  void transition(vfio::DeviceState from, vfio::DeviceState to, Completion done) override {
    const auto* arc = vfio::find_arc(from, to, spec_.migration_features);
    {
      std::lock_guard lock(mutex_);
      arcs_.push_back({from, to});
      if (!arc) return done(fail(Errc::state, "not an arc"));
      if (to == fail_to_ || fail_all_) {
        post([done, error = fail_errno_] {
          done(std::unexpected(Error(Errc::device, "told to fail", error)));
        });
        return;
      }
    }
    finish_later(
        [this, arc, from, to]() -> Status {
          std::lock_guard lock(mutex_);
          if (from == vfio::DeviceState::resuming) return judge();
          if (to == vfio::DeviceState::resuming) incoming_.clear();
          if (arc->session == vfio::Session::opens || to == vfio::DeviceState::stop_copy) {
            // All of it in pre-copy and all of it again in stop-copy.
            NativeWriter record;
            record.u64(state_.size());
            record.bytes(state_);
            const auto bytes = record.take();
            if (arc->session == vfio::Session::opens) outgoing_.clear();
            outgoing_.insert(outgoing_.end(), bytes.begin(), bytes.end());
          }
          if (arc->session == vfio::Session::ends) outgoing_.clear();
          return {};
        },
        std::move(done));
  }

  Result<std::size_t> migration_read(std::span<std::byte> to) override {
    std::lock_guard lock(mutex_);
    const auto count = std::min(to.size(), outgoing_.size());
    std::copy_n(outgoing_.begin(), count, to.begin());
    outgoing_.erase(outgoing_.begin(), outgoing_.begin() + static_cast<std::ptrdiff_t>(count));
    return count;
  }
  Status migration_write(std::span<const std::byte> from) override {
    std::lock_guard lock(mutex_);
    if (fail_write_) return std::unexpected(Error(Errc::device, "told to fail", fail_write_));
    incoming_.insert(incoming_.end(), from.begin(), from.end());
    return {};
  }
  std::optional<vfio::PrecopyInfo> precopy_info() const override {
    std::lock_guard lock(mutex_);
    if (!estimates_) return std::nullopt;
    return vfio::PrecopyInfo{outgoing_.size(), 0};
  }
  std::optional<std::uint64_t> stop_copy_size() const override {
    std::lock_guard lock(mutex_);
    if (!estimates_) return std::nullopt;
    return stop_copy_size_;
  }

  void dma_unmapping(Iova, std::uint64_t, Completion done) override {
    finish_later([] {}, std::move(done));
  }
  void disconnected(Completion done) override {
    finish_later([] {}, std::move(done));
  }

  // What tests do and ask.
  std::vector<std::byte> state() const {
    std::lock_guard lock(mutex_);
    return state_;
  }
  void set_state(std::vector<std::byte> state) {
    std::lock_guard lock(mutex_);
    state_ = std::move(state);
  }
  std::vector<std::pair<vfio::DeviceState, vfio::DeviceState>> take_arcs() {
    std::lock_guard lock(mutex_);
    return std::exchange(arcs_, {});
  }
  void fail_transition_to(vfio::DeviceState state, int error) {
    std::lock_guard lock(mutex_);
    fail_to_ = state;
    fail_errno_ = error;
  }
  /// Without, the device can say neither how much pre-copy nor how much stop-copy has left.
  void set_estimates(bool on, std::uint64_t stop_copy_size = kStateSize + 8) {
    std::lock_guard lock(mutex_);
    estimates_ = on;
    stop_copy_size_ = stop_copy_size;
  }
  void fail_migration_write(int error) {
    std::lock_guard lock(mutex_);
    fail_write_ = error;
  }
  void fail_every_transition(int error) {
    std::lock_guard lock(mutex_);
    fail_all_ = true;
    fail_errno_ = error;
  }
  void fail_no_transition() {
    std::lock_guard lock(mutex_);
    fail_all_ = false;
    fail_to_.reset();
  }
  /// What the server asks for to be finished later stays unfinished until release().
  void hold() {
    std::lock_guard lock(mutex_);
    held_ = true;
  }
  void release() {
    std::lock_guard lock(mutex_);
    held_ = false;
    for (auto& work : std::exchange(held_work_, {}))
      post(std::move(work));
  }
  bool holds_something() const {
    std::lock_guard lock(mutex_);
    return !held_work_.empty();
  }
  /// Runs on the device's thread.
  void post(std::function<void()> work) {
    std::lock_guard lock(queue_mutex_);
    posted_.push_back(std::move(work));
    queue_changed_.notify_all();
  }
  std::vector<std::byte> last_read() const {
    std::lock_guard lock(mutex_);
    return last_read_;
  }

 private:
  template <class Work>
  void finish_later(Work work, Completion done) {
    auto job = [work, done]() mutable {
      if constexpr (std::is_void_v<decltype(work())>) {
        work();
        done({});
      } else {
        done(work());
      }
    };
    std::lock_guard lock(mutex_);
    // A model may keep what it has called; this one does so until after the server and its loop are gone.
    kept_.push_back(done);
    if (held_)
      held_work_.push_back(job);
    else
      post(job);
  }

  // Under the lock.
  Status judge() {
    NativeReader in(incoming_);
    std::optional<std::vector<std::byte>> last;
    while (in.remaining() > 0) {
      HANDOVER_ASSIGN(auto length, in.u64());
      HANDOVER_ASSIGN(auto bytes, in.bytes(length));
      last.emplace(bytes.begin(), bytes.end());
    }
    if (!last) return fail(Errc::device, "no state came");
    state_ = std::move(*last);
    return {};
  }

  void do_dma() {
    std::unique_lock lock(mutex_);
    const Iova address{load_le<std::uint64_t>(bar0_.data())};
    const auto length = std::min<std::uint32_t>(load_le<std::uint32_t>(bar0_.data() + 8), 8 << 20);
    const auto command = load_le<std::uint32_t>(bar0_.data() + 0x0c);
    std::vector<std::byte> data(length, bar0_[0x14]);
    lock.unlock();
    const auto done = command == 1 ? bus_->dma_write(address, data) : bus_->dma_read(address, data);
    lock.lock();
    if (command == 2 && done) last_read_ = std::move(data);
    store_le<std::uint32_t>(bar0_.data() + 0x10, done ? 2 : 3);
    lock.unlock();
    bus_->trigger_irq(vfio::kIrqMsix, 0);
  }

  void work() {
    for (;;) {
      std::unique_lock lock(queue_mutex_);
      queue_changed_.wait(lock, [&] { return !posted_.empty(); });
      auto next = std::move(posted_.front());
      posted_.pop_front();
      lock.unlock();
      if (!next) return;
      next();
    }
  }

  DeviceSpec spec_;
  DeviceBus* bus_ = nullptr;
  UniqueFd memory_;
  mutable std::mutex mutex_;
  std::vector<std::byte> bar0_, config_, state_, incoming_, last_read_;
  std::deque<std::byte> outgoing_;
  std::vector<std::pair<vfio::DeviceState, vfio::DeviceState>> arcs_;
  std::optional<vfio::DeviceState> fail_to_;
  int fail_errno_ = 0;
  bool fail_all_ = false;
  int fail_write_ = 0;
  bool estimates_ = true;
  std::uint64_t stop_copy_size_ = kStateSize + 8;
  bool held_ = false;
  std::vector<Completion> kept_;
  std::vector<std::function<void()>> held_work_;
  std::mutex queue_mutex_;
  std::condition_variable queue_changed_;
  std::deque<std::function<void()>> posted_;
  std::thread worker_;
};

}  // namespace handover::vfio_user
