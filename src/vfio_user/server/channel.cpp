#include "vfio_user/server/channel.h"

namespace handover::vfio_user {

namespace {
// Messages handled at one go before others on the loop get their turn.
constexpr int kBatch = 32;
}  // namespace

Channel::Channel(asio::io_context& context, UniqueFd socket, std::size_t max_size)
    : socket_(context, socket.release()), reader_(max_size) {
}

void Channel::start(Handlers handlers) {
  handlers_ = std::move(handlers);
  set_reading(true);
}

void Channel::set_reading(bool on) {
  reading_ = on;
  if (on) wait_readable();
}

void Channel::wait_readable() {
  if (read_armed_ || !socket_.is_open()) return;
  read_armed_ = true;
  socket_.async_wait(asio::posix::descriptor_base::wait_read,
                     [self = shared_from_this()](asio::error_code error) {
                       self->read_armed_ = false;
                       if (!error && self->reading_) self->read_messages();
                     });
}

void Channel::read_messages() {
  for (int i = 0; i < kBatch && reading_ && socket_.is_open(); ++i) {
    auto message = reader_.read(socket_.native_handle());
    if (!message) return end(message.error());
    if (!*message) break;
    handlers_.message(std::move(**message));
  }
  if (reading_) wait_readable();
}

void Channel::send(std::vector<std::byte> message, std::vector<UniqueFd> fds, Payload tail) {
  if (!socket_.is_open()) return;
  queue_.push(std::move(message), std::move(fds), std::move(tail));
  if (!write_armed_) flush();
}

void Channel::flush() {
  auto done = queue_.flush(socket_.native_handle());
  if (!done) return end(done.error());
  if (!*done) return wait_writable();
}

void Channel::wait_writable() {
  write_armed_ = true;
  socket_.async_wait(asio::posix::descriptor_base::wait_write,
                     [self = shared_from_this()](asio::error_code error) {
                       self->write_armed_ = false;
                       if (error || !self->socket_.is_open()) return;
                       self->flush();
                       if (self->socket_.is_open() && self->queue_.empty() && self->handlers_.drained)
                         self->handlers_.drained();
                     });
}

void Channel::end(const Error& error) {
  if (!socket_.is_open()) return;
  reading_ = false;
  // After a refused size an answer can still be sent.
  if (error.code() != Errc::limit) close();
  handlers_.ended(error);
}

void Channel::close() {
  reading_ = false;
  asio::error_code ignored;
  if (socket_.is_open()) socket_.close(ignored);
  queue_.clear();
}

}  // namespace handover::vfio_user
