#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "handover/channel/channel.h"
#include "handover/stream/migratable.h"
#include "handover/stream/return_path.h"

namespace handover {

/// The destination's voice: a thread that writes its answers to the return path, so that whoever has
/// something to say never waits for the source.
///
/// Answers go out in order; progress of a section that nobody has written yet is replaced by newer progress.
/// Any thread.
class ReplySender {
 public:
  explicit ReplySender(Channel& channel);
  /// Writes what is left (the channel decides how long that takes) and joins the thread.
  ~ReplySender();

  void send(const stream::ReplyMessage& message);
  /// `room`: bytes of packets that may wait to be loaded.
  void progress(std::uint32_t section, const LoadProgress& loaded, std::uint64_t room);
  /// Waits until everything said so far is written, or cannot be.
  void flush();

 private:
  void run();

  Channel& channel_;
  std::mutex mutex_;  // a leaf; nothing is written under it
  std::condition_variable changed_;
  std::deque<stream::ReplyMessage> messages_;
  std::map<std::uint32_t, stream::ReplyMessage> progress_;
  bool writing_ = false;
  bool broken_ = false;  // a source that is gone learns nothing more
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace handover
