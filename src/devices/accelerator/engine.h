#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "devices/accelerator/device_memory.h"
#include "devices/accelerator/job.h"
#include "devices/accelerator/registers.h"
#include "handover/vfio_user/device_model.h"

namespace handover::accelerator {

/// What of the engine a migration carries.
struct EngineState {
  Registers registers;
  std::optional<Job> job;  ///< fetched and not yet completed
};

/// The DMA engine: registers, and a thread that walks the ring.
///
/// The thread works in pieces (a descriptor fetch, up to 64 KiB of a job, a completion record) and can be
/// held between any two.  A held engine starts no DMA and raises no interrupt; a job in flight waits where
/// it is and completes exactly once, here or on the device that load()s its state.
///
/// The lock guards the registers and is never held during DMA, hashing, a completion or bus calls.
/// Destroy after the bus has stopped answering (calls that wait have failed).
class Engine {
 public:
  using Completion = std::function<void(Status)>;

  /// Why the engine is held; it works when no reason is left.
  enum Hold : unsigned {
    kDeviceState = 1,  ///< the device is in a state without DMA
    kNoClient = 2,     ///< the client went away; ends with its next doorbell, enable or start of the device
  };

  explicit Engine(DeviceMemory& memory);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Once, before anything else.
  void attach(vfio_user::DeviceBus& bus);

  std::uint64_t read_register(std::uint64_t offset, std::size_t width) const;
  void write_register(std::uint64_t offset, std::size_t width, std::uint64_t value);

  /// Holds the engine; `done` is called on its thread when it is quiet.
  void hold(Hold why, Completion done);
  void release(unsigned reasons);
  /// Runs `work` between two pieces, on the engine's thread, and hands its result to `done` there.
  void between_pieces(std::function<Status()> work, Completion done);

  /// Only while held, or from between_pieces().
  EngineState state() const;
  void load(const EngineState& state);

 private:
  struct Request {
    std::function<Status()> work;
    Completion done;
  };

  void run();
  void step(std::unique_lock<std::mutex>& lock);
  void fetch(std::unique_lock<std::mutex>& lock);
  void execute(std::unique_lock<std::mutex>& lock);
  void complete(std::unique_lock<std::mutex>& lock);
  void ring_failed(const Error& error, const char* what);
  void drop_job();

  DeviceMemory& memory_;
  vfio_user::DeviceBus* bus_ = nullptr;
  JobRunner runner_;  // the thread's

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  Registers registers_;
  std::optional<Job> job_;
  // Counts what makes the job of a piece under way stale: disabling, an error, a load.
  std::uint64_t epoch_ = 0;
  bool in_piece_ = false;
  bool draining_ = false;
  unsigned holds_ = 0;
  std::deque<Request> requests_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace handover::accelerator
