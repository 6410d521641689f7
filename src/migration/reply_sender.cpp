#include "migration/reply_sender.h"

#include <pthread.h>

#include "handover/base/trace.h"

namespace handover {

ReplySender::ReplySender(Channel& channel)
    : channel_(channel), thread_([this] {
        ::pthread_setname_np(::pthread_self(), "replies");
        run();
      }) {
}

ReplySender::~ReplySender() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ReplySender::send(const stream::ReplyMessage& message) {
  {
    std::lock_guard lock(mutex_);
    messages_.push_back(message);
  }
  changed_.notify_all();
}

void ReplySender::progress(std::uint32_t section, const LoadProgress& loaded, std::uint64_t room) {
  {
    std::lock_guard lock(mutex_);
    progress_[section] = {.type = stream::Reply::load_progress,
                          .section = section,
                          .bytes = loaded.bytes,
                          .busy_ns = loaded.busy_ns,
                          .packet_charge = loaded.packet_charge,
                          .room = room};
  }
  changed_.notify_all();
}

void ReplySender::flush() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return broken_ || (messages_.empty() && progress_.empty() && !writing_); });
}

void ReplySender::run() {
  HANDOVER_TRACE(thread_start, "replies");
  stream::ReturnPathWriter out(channel_);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !messages_.empty() || !progress_.empty(); });
    if (messages_.empty() && progress_.empty()) break;
    stream::ReplyMessage next;
    // Progress first: an answer may be the last thing that the source reads.
    if (!progress_.empty()) {
      next = progress_.begin()->second;
      progress_.erase(progress_.begin());
    } else {
      next = std::move(messages_.front());
      messages_.pop_front();
    }
    if (broken_) continue;
    writing_ = true;
    lock.unlock();
    HANDOVER_TRACE(return_path_send, static_cast<int>(next.type), next.value);
    auto sent = out.send(next);
    if (!sent) HANDOVER_TRACE(return_path_broken, sent.error().to_string().c_str());
    lock.lock();
    writing_ = false;
    broken_ = !sent;
    changed_.notify_all();
  }
  HANDOVER_TRACE(thread_end, "replies");
}

}  // namespace handover
