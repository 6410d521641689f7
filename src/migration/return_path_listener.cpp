#include "migration/return_path_listener.h"

#include <pthread.h>

#include <algorithm>

#include "handover/base/trace.h"
#include "handover/base/units.h"
#include "handover/migration/protocol.h"
#include "handover/stream/return_path.h"

namespace handover {

ReturnPathListener::ReturnPathListener(Channel& channel, std::size_t sections)
    : channel_(channel), progress_(sections), thread_([this] {
        ::pthread_setname_np(::pthread_self(), "return-path");
        listen();
      }) {
}

ReturnPathListener::~ReturnPathListener() {
  channel_.shutdown();
  thread_.join();
}

void ReturnPathListener::listen() {
  HANDOVER_TRACE(thread_start, "return-path");
  stream::ReturnPathReader in(channel_);
  for (;;) {
    auto message = read_message(in);
    if (message) continue;
    std::lock_guard lock(mutex_);
    failure_ = std::move(message).error().with_context("the destination's answers ended");
    changed_.notify_all();
    break;
  }
  HANDOVER_TRACE(thread_end, "return-path");
}

Status ReturnPathListener::read_message(stream::ReturnPathReader& in) {
  HANDOVER_ASSIGN(auto message, in.next());
  HANDOVER_TRACE(return_path_message, static_cast<int>(message.type), message.value);
  std::lock_guard lock(mutex_);
  switch (message.type) {
    case stream::Reply::pong:
      pongs_.insert(message.value);
      break;
    case stream::Reply::shut:
      shut_ = message.value;
      break;
    case stream::Reply::switchover_ack:
      ++acks_;
      break;
    case stream::Reply::load_progress:
      if (message.section >= progress_.size())
        return fail(Errc::protocol, "progress of section {}, which does not exist", message.section);
      progress_[message.section] = message;
      break;
    default:
      return fail(Errc::protocol, "return-path message {} was not asked for", static_cast<int>(message.type));
  }
  changed_.notify_all();
  return {};
}

std::uint64_t ReturnPathListener::acks() const {
  std::lock_guard lock(mutex_);
  return acks_;
}

stream::ReplyMessage ReturnPathListener::progress(std::uint32_t section) const {
  std::lock_guard lock(mutex_);
  return section < progress_.size() ? progress_[section] : stream::ReplyMessage{};
}

Status ReturnPathListener::wait_for_room(std::uint32_t section, std::uint64_t sent, std::uint64_t bytes,
                                         const CancelToken& cancel) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, cancel.stop(), [&] {
    if (shut_ || failure_) return true;
    const auto& there = progress_[section];
    const auto waiting = sent - std::min(sent, there.packet_charge);
    return there.room > 0 && (bytes > there.room || range_fits(waiting, bytes, there.room));
  });
  HANDOVER_TRY(cancel.check());
  HANDOVER_TRY(check_locked());
  if (bytes > progress_[section].room)
    return fail(Errc::limit, "the destination takes packets of {} bytes and this one has {}",
                progress_[section].room, bytes);
  return {};
}

Status ReturnPathListener::check() const {
  std::lock_guard lock(mutex_);
  return check_locked();
}

Status ReturnPathListener::check_locked() const {
  if (shut_ && *shut_ != kShutLoaded)
    return fail(Errc::mismatch, "the destination reports that it failed (error {}); its own log says why",
                *shut_);
  if (shut_)
    return fail(Errc::protocol, "the destination says that it has loaded everything before it was sent");
  if (failure_) return std::unexpected(*failure_);
  return {};
}

Status ReturnPathListener::wait_for_pong(std::uint32_t token, const CancelToken& cancel) {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, cancel.stop(), [&] { return pongs_.contains(token) || shut_ || failure_; });
  }
  HANDOVER_TRY(cancel.check());
  // A PONG and then a failure is a failure: the destination has taken its word back.
  HANDOVER_TRY(check());
  return {};
}

Result<std::uint32_t> ReturnPathListener::wait_for_shut(std::chrono::milliseconds timeout,
                                                        const CancelToken& cancel) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, cancel.stop(), timeout, [&] { return shut_ || failure_; });
  if (shut_) return *shut_;
  if (failure_) return std::unexpected(*failure_);
  HANDOVER_TRY(cancel.check());
  return fail(Errc::timeout, "the destination did not answer within {} ms", timeout.count());
}

}  // namespace handover
