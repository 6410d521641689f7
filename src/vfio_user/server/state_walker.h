#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "handover/base/event_loop.h"
#include "handover/vfio_user/device_model.h"

namespace handover::vfio_user {

/// The migration state of a device model, and the walk along the arcs from one state to another.
///
/// Lives on the server's loop; one walk or reset at a time.  A failed arc leaves the last state that was
/// reached, or one beside it if clients do not know that.  ERROR is entered only when a device can go
/// nowhere; a later reset may leave it.
class StateWalker : public std::enable_shared_from_this<StateWalker> {
 public:
  using Done = std::function<void(Status)>;

  /// `offered` are the migration features that clients know: the walker comes to rest in no other state.
  StateWalker(EventLoop& loop, DeviceModel& model, std::uint64_t offered)
      : loop_(loop), model_(model), offered_(offered) {}

  /// Any thread.
  vfio::DeviceState state() const { return state_.load(std::memory_order_relaxed); }

  void go(vfio::DeviceState to, Done done);
  void reset(Done done);
  /// To ERROR: only a reset helps the device.
  void give_up() { state_ = vfio::DeviceState::error; }
  /// A walk under way ends after the arc that it is on, with Errc::cancelled.
  void stop_walking() { stop_ = true; }
  /// Out of every saving or resuming state: to RUNNING from pre-copy, to STOP from the others, by reset if a
  /// half-loaded device cannot stop.  Calls `done` when the device is as far out as it can be.
  void abandon(std::function<void()> done);

 private:
  void step(std::vector<vfio::DeviceState> path, std::size_t next, Done done);
  void settle(Status failure, Done done);

  EventLoop& loop_;
  DeviceModel& model_;
  const std::uint64_t offered_;
  std::atomic<vfio::DeviceState> state_{vfio::DeviceState::running};
  bool stop_ = false;
  bool ran_ = false;  // when the walk began
};

/// A completion that may be called from any thread, once: runs `done` on the loop.
DeviceModel::Completion completion_on(EventLoop& loop, std::function<void(Status)> done);

}  // namespace handover::vfio_user
