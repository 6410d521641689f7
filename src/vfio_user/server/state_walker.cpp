#include "vfio_user/server/state_walker.h"

#include <utility>

#include "handover/base/log.h"
#include "handover/base/trace.h"

namespace handover::vfio_user {

using vfio::DeviceState;

DeviceModel::Completion completion_on(EventLoop& loop, std::function<void(Status)> done) {
  struct Once {
    std::atomic<bool> called{false};
    std::function<void(Status)> done;
  };
  auto once = std::make_shared<Once>();
  once->done = std::move(done);
  return [&loop, once](Status status) {
    if (once->called.exchange(true)) return;
    // Moved out: the model may keep its copy longer than the loop and what `done` holds may live.
    loop.post([next = std::exchange(once->done, nullptr), status = std::move(status)] { next(status); });
  };
}

void StateWalker::go(DeviceState to, Done done) {
  auto path = vfio::path_between(state(), to, model_.spec().migration_features);
  if (!path) return done(std::unexpected(std::move(path).error()));
  stop_ = false;
  ran_ = vfio::may_dma(state());
  step(std::move(*path), 0, std::move(done));
}

void StateWalker::step(std::vector<DeviceState> path, std::size_t next, Done done) {
  if (next == path.size()) return done({});
  if (stop_)
    return settle(fail(Errc::cancelled, "the walk to {} was given up", vfio::to_string(path.back())),
                  std::move(done));
  const auto from = state();
  const auto to = path[next];
  model_.transition(from, to,
                    completion_on(loop_, [self = shared_from_this(), path, next, to, done](Status arc) {
                      if (!arc) return self->settle(std::move(arc), done);
                      self->state_ = to;
                      HANDOVER_TRACE(vfio_user_server_state, static_cast<std::uint32_t>(to));
                      self->step(path, next + 1, done);
                    }));
}

// The model walks through states that clients are not offered; none of those is where a failure may end.
void StateWalker::settle(Status failure, Done done) {
  const auto at = state();
  if (vfio::state_exists(at, offered_)) return done(std::move(failure));
  const auto back = at == DeviceState::pre_copy_p2p ? DeviceState::pre_copy
                    : ran_                          ? DeviceState::running
                                                    : DeviceState::stop;
  model_.transition(at, back,
                    completion_on(loop_, [self = shared_from_this(), at, back, failure = std::move(failure),
                                          done = std::move(done)](Status arc) {
                      self->state_ = arc ? back : DeviceState::error;
                      if (!arc)
                        log::error("device `{}` cannot leave {}: {}", self->model_.spec().name,
                                   vfio::to_string(at), arc.error().to_string());
                      done(failure);
                    }));
}

void StateWalker::reset(Done done) {
  model_.reset(completion_on(loop_, [self = shared_from_this(), done = std::move(done)](Status status) {
    if (status) self->state_ = DeviceState::running;
    done(std::move(status));
  }));
}

void StateWalker::abandon(std::function<void()> done) {
  const auto now = state();
  const bool in_pre_copy = now == DeviceState::pre_copy || now == DeviceState::pre_copy_p2p;
  if (!in_pre_copy && now != DeviceState::stop_copy && now != DeviceState::resuming) return done();
  go(in_pre_copy ? DeviceState::running : DeviceState::stop, [self = shared_from_this(), done](Status left) {
    if (left) return done();
    // A half-loaded device cannot stop; its contents are lost either way.
    self->reset([self, done](Status reset) {
      if (!reset) {
        log::error("device `{}` could not leave {} nor be reset: {}", self->model_.spec().name,
                   vfio::to_string(self->state()), reset.error().to_string());
        self->state_ = DeviceState::error;
      }
      done();
    });
  });
}

}  // namespace handover::vfio_user
