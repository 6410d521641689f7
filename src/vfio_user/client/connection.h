#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "handover/base/cancel.h"
#include "vfio_user/transport/frame_reader.h"
#include "vfio_user/transport/send_queue.h"

namespace handover::vfio_user {

class DmaService;

/// The client's end of a connection: sends commands and waits for their replies, and answers the server's
/// DMA messages meanwhile.
///
/// Any thread may call; a thread of the connection's own reads both sockets, finds the caller that a reply
/// belongs to, serves the server's commands, and sends what a full socket did not take.  It never waits for
/// a reply and takes no lock that is held while somebody waits for one.
///
/// The first thing that goes wrong (end of stream, a message that breaks the protocol, an answer that does
/// not come in time, a cancel) loses the device for good: every caller fails, and so does every later call.
class Connection {
 public:
  Connection(std::string name, UniqueFd socket, std::chrono::milliseconds timeout, CancelToken cancel,
             DmaService& dma);
  ~Connection();

  /// The reply of a command that succeeded.  A refusal has Errc::device and the server's errno.
  /// `max_reply` allows a reply larger than a data transfer.
  Result<Message> call(protocol::Command command, MessageBuilder payload, std::vector<UniqueFd> fds = {},
                       std::size_t max_reply = 0) {
    return call(command, std::move(payload), Data{}, std::move(fds), max_reply);
  }
  /// Much data of the caller's that is neither copied on its way out nor on its way in.
  struct Data {
    std::span<const std::byte> out;  ///< the command goes on with it
    FrameReader::Landing in;         ///< Message::landed says how much of a reply is there
  };
  Result<Message> call(protocol::Command command, MessageBuilder payload, Data data,
                       std::vector<UniqueFd> fds = {}, std::size_t max_reply = 0);

  /// A command under way whose reply is awaited later.
  struct Waiter {
    protocol::Command command;
    Data data;
    Payload room{};  ///< where the reply lands, if that is not the caller's
    std::uint16_t id = 0;
    std::chrono::steady_clock::time_point deadline{};
    bool forgotten = false;
    bool awaited = false;  ///< somebody sleeps until the reply is there
    std::optional<Result<Message>> reply{};
  };
  using Ticket = std::shared_ptr<Waiter>;
  /// True if commands may be begun before earlier ones are answered.
  bool may_run_ahead() const;
  /// `out` goes on with the command and is the caller's again at once; what a reply has after its first
  /// `head` bytes lands in `room`, which the ticket keeps.
  Result<Ticket> begin(protocol::Command command, MessageBuilder payload, std::span<const std::byte> out,
                       std::size_t head = 0, Payload room = {}, std::vector<UniqueFd> fds = {},
                       std::size_t max_reply = 0);
  Result<Message> finish(const Ticket& ticket);
  /// Nobody will ask for the reply.
  void forget(const Ticket& ticket);

  /// From now on the server's commands come on a socket of their own.
  void use_twin(UniqueFd twin);
  /// Without a twin socket a server may take our next command for the answer that it waits for, so there
  /// is never more than one command under way.
  void set_one_at_a_time(bool on);

  bool lost() const;
  void on_lost(std::function<void(std::string)> handler);
  /// Ends the connection because of something that the caller found in a reply.
  void lose(Error error);

 private:
  struct Stream {
    Stream(UniqueFd fd, std::size_t max_size) : socket(std::move(fd)), reader(max_size) {}
    UniqueFd socket;
    FrameReader reader;  // the thread's
    SendQueue queue;
  };

  Status start(std::unique_lock<std::mutex>& lock, const Ticket& waiter, MessageBuilder payload,
               std::vector<UniqueFd> fds, std::size_t max_reply);
  Result<Message> await(std::unique_lock<std::mutex>& lock, const Ticket& waiter);
  void run();
  short wanted(const Stream& stream) const;
  /// False once the device is lost.
  bool serve(Stream& stream, short events);
  Status handle(Stream& stream, Message message);
  Status take_reply(const Stream& stream, Message message);
  FrameReader::Landing landing(const protocol::Header& header) const;
  void send(Stream& stream, std::vector<std::byte> message, std::vector<UniqueFd> fds = {},
            std::span<const std::byte> data = {});
  std::unexpected<Error> give_up(std::unique_lock<std::mutex>& lock, Error why);
  void wake();

  const std::string name_;
  const std::chrono::milliseconds timeout_;
  const CancelToken cancel_;
  DmaService& dma_;
  UniqueFd wake_;

  // Protects everything below but the streams' readers; nothing blocks or calls out under it.
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  Stream main_;
  std::unique_ptr<Stream> twin_;
  std::map<std::uint16_t, Ticket> waiting_;
  std::uint16_t next_id_ = 0;
  std::size_t max_message_;
  bool one_at_a_time_ = true;
  bool reading_ = false;  // the thread may be writing to where a reply lands
  bool stopping_ = false;
  std::optional<Error> lost_;
  std::function<void(std::string)> on_lost_;
  std::thread thread_;
};

}  // namespace handover::vfio_user
