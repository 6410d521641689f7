#pragma once

#include <functional>
#include <memory>

// After a header of the standard library: Asio looks at what it defines to choose between two allocators,
// and the program must have the same one everywhere.
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>

#include "vfio_user/transport/frame_reader.h"
#include "vfio_user/transport/send_queue.h"

namespace handover::vfio_user {

/// One socket of a client on the server's event loop: reads messages and sends what is queued.
///
/// Everything runs on the loop.  After close() no handler is called any more.
class Channel : public std::enable_shared_from_this<Channel> {
 public:
  struct Handlers {
    std::function<void(Message)> message;
    /// The stream is over or broken; the channel reads and sends nothing more.
    std::function<void(const Error&)> ended;
    /// The queue of outgoing bytes has become empty.
    std::function<void()> drained;
  };

  Channel(asio::io_context& context, UniqueFd socket, std::size_t max_size);

  void start(Handlers handlers);
  void set_max_size(std::size_t max_size) { reader_.set_max_size(max_size); }
  void send(std::vector<std::byte> message, std::vector<UniqueFd> fds = {}, Payload tail = {});
  /// Bytes that the client has not taken yet.
  std::size_t unsent() const { return queue_.bytes(); }
  /// While reading is off, what the client sends stays in the socket.
  void set_reading(bool on);
  /// At once; what the socket has not taken is dropped.
  void close();
  /// The header of a message whose size was refused, after Errc::limit.
  const std::optional<protocol::Header>& refused() const { return reader_.refused(); }

 private:
  void wait_readable();
  void wait_writable();
  void read_messages();
  void flush();
  void end(const Error& error);

  asio::posix::stream_descriptor socket_;
  FrameReader reader_;
  SendQueue queue_;
  Handlers handlers_;
  bool reading_ = false;
  bool read_armed_ = false;
  bool write_armed_ = false;
};

}  // namespace handover::vfio_user
