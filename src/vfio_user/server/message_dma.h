#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "handover/base/event_loop.h"
#include "handover/base/units.h"
#include "vfio_user/transport/message.h"

namespace handover::vfio_user {

/// Reaches guest memory that the client did not pass as a descriptor, by DMA_READ and DMA_WRITE messages.
///
/// The device model's threads ask and wait; the server's loop sends, and hands over the answers.  Nobody
/// waits for ever: an answer comes, the range is unmapped, or the client goes.
class MessageDma : public std::enable_shared_from_this<MessageDma> {
 public:
  /// QEMU cuts answers above about 212 KiB short, whatever was negotiated.
  static constexpr std::size_t kMaxMessage = 64 * KiB;
  using Send = std::function<void(std::vector<std::byte>)>;

  explicit MessageDma(EventLoop& loop) : loop_(loop) {}

  // On the loop.
  void connected(Send send, std::uint64_t max_transfer);
  void disconnected();
  /// An answer that belongs to no question any more is dropped.
  void answer(const Message& message);
  /// Gives up what is under way in the ranges; late answers are dropped.
  void cancel(std::uint64_t start, std::uint64_t last);
  /// True while answers are expected.
  bool waiting() const;

  // On any thread but the loop's.
  Status read(Iova from, std::span<std::byte> to);
  Status write(Iova to, std::span<const std::byte> from);

 private:
  struct Request {
    protocol::Command command;
    std::uint64_t address = 0;
    std::uint64_t count = 0;
    std::span<std::byte> to;
    bool done = false;
    Status result;
  };
  Status transfer(protocol::Command command, Iova address, std::span<std::byte> to,
                  std::span<const std::byte> from);
  Status exchange(Request& request, std::span<const std::byte> data);
  void finish(Request& request, Status result);
  static Status take_answer(Request& request, const Message& message);

  EventLoop& loop_;
  Send send_;  // the loop's
  // Protects what follows.  No answer is copied and nothing is called under it but memcpy into a waiter's
  // buffer.
  mutable std::mutex mutex_;
  std::condition_variable answered_;
  std::map<std::uint16_t, Request*> requests_;
  std::uint16_t next_id_ = 1;
  std::uint64_t limit_ = 0;  // of one message; 0: nobody there
};

}  // namespace handover::vfio_user
