#include "vfio_user/client/connection.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "vfio_user/client/dma_service.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

// Answers that the server has not taken yet, before the thread stops reading its questions.
constexpr std::size_t kMaxUnsent = 4 * MiB;
// Messages handled at one go before the other socket gets its turn.
constexpr int kBatch = 32;

// Some servers fail with errno 0 or with whatever a callback left.
int sane_errno(std::uint32_t error) {
  return error > 0 && error < 4096 ? static_cast<int>(error) : EIO;
}

}  // namespace

Connection::Connection(std::string name, UniqueFd socket, std::chrono::milliseconds timeout,
                       CancelToken cancel, DmaService& dma)
    : name_(std::move(name)),
      timeout_(timeout),
      cancel_(std::move(cancel)),
      dma_(dma),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      main_(std::move(socket), Capabilities::kDefaultTransfer + kMessageSlack),
      max_message_(Capabilities::kDefaultTransfer + kMessageSlack) {
  main_.reader.set_landing([this](const Header& header) { return landing(header); });
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "vfio-user");
    run();
  });
}

Connection::~Connection() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
  thread_.join();
}

void Connection::wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] auto written = ::write(wake_.get(), &one, sizeof one);
}

void Connection::use_twin(UniqueFd twin) {
  {
    std::lock_guard lock(mutex_);
    twin_ = std::make_unique<Stream>(std::move(twin), max_message_);
  }
  wake();
}

void Connection::set_one_at_a_time(bool on) {
  std::lock_guard lock(mutex_);
  one_at_a_time_ = on;
}

bool Connection::lost() const {
  std::lock_guard lock(mutex_);
  return lost_.has_value();
}

void Connection::on_lost(std::function<void(std::string)> handler) {
  std::unique_lock lock(mutex_);
  if (!lost_) {
    on_lost_ = std::move(handler);
    return;
  }
  const auto reason = lost_->to_string();
  lock.unlock();
  handler(reason);
}

void Connection::lose(Error error) {
  std::unique_lock lock(mutex_);
  if (lost_) return;
  const auto code = error.code() == Errc::closed ? Errc::closed : Errc::device;
  lost_.emplace(code, std::move(error).with_context(fmt::format("{} is lost", name_)).to_string());
  ::shutdown(main_.socket.get(), SHUT_RDWR);
  if (twin_) ::shutdown(twin_->socket.get(), SHUT_RDWR);
  const auto reason = lost_->to_string();
  const auto handler = std::exchange(on_lost_, nullptr);
  changed_.notify_all();
  lock.unlock();
  log::warn("{}", reason);
  if (handler) handler(reason);
}

Result<Message> Connection::call(Command command, MessageBuilder payload, Data data,
                                 std::vector<UniqueFd> fds, std::size_t max_reply) {
  const auto waiter = std::make_shared<Waiter>(command, data);
  std::unique_lock lock(mutex_);
  HANDOVER_TRY(start(lock, waiter, std::move(payload), std::move(fds), max_reply));
  return await(lock, waiter);
}

bool Connection::may_run_ahead() const {
  std::lock_guard lock(mutex_);
  return !one_at_a_time_;
}

Result<Connection::Ticket> Connection::begin(Command command, MessageBuilder payload,
                                             std::span<const std::byte> out, std::size_t head, Payload room,
                                             std::vector<UniqueFd> fds, std::size_t max_reply) {
  auto waiter = std::make_shared<Waiter>(command, Data{.out = out, .in = {}}, std::move(room));
  waiter->data.in = {head, waiter->room};
  std::unique_lock lock(mutex_);
  HANDOVER_TRY(start(lock, waiter, std::move(payload), std::move(fds), max_reply));
  main_.queue.let_go(std::exchange(waiter->data.out, {}));
  return waiter;
}

Result<Message> Connection::finish(const Ticket& ticket) {
  std::unique_lock lock(mutex_);
  return await(lock, ticket);
}

void Connection::forget(const Ticket& ticket) {
  std::lock_guard lock(mutex_);
  ticket->forgotten = true;
  // Otherwise the thread may be filling it.
  if (ticket->reply) waiting_.erase(ticket->id);
}

// Under the lock, which is given back for as long as it is not this command's turn.
Status Connection::start(std::unique_lock<std::mutex>& lock, const Ticket& waiter, MessageBuilder payload,
                         std::vector<UniqueFd> fds, std::size_t max_reply) {
  HANDOVER_TRACE(vfio_user_client_call, static_cast<std::uint32_t>(waiter->command));
  // Each call before this one has its own time limit.
  changed_.wait(lock, cancel_.stop(), [&] { return lost_ || !one_at_a_time_ || waiting_.empty(); });
  if (lost_) return std::unexpected(*lost_);
  if (auto cancelled = cancel_.check(); !cancelled) return give_up(lock, std::move(cancelled).error());
  max_message_ = std::max(max_message_, max_reply);
  while (waiting_.contains(next_id_))
    ++next_id_;
  waiter->id = next_id_++;
  waiter->deadline = std::chrono::steady_clock::now() + timeout_;
  Header header;
  header.id = waiter->id;
  header.command = static_cast<std::uint16_t>(waiter->command);
  waiting_[waiter->id] = waiter;
  const auto& out = waiter->data.out;
  send(main_, payload.finish(header, out.size()), std::move(fds), out);
  return {};
}

// Under the lock.
Result<Message> Connection::await(std::unique_lock<std::mutex>& lock, const Ticket& waiter) {
  if (!waiter->reply) {
    waiter->awaited = true;
    changed_.wait_until(lock, cancel_.stop(), waiter->deadline, [&] { return lost_ || waiter->reply; });
  }
  waiting_.erase(waiter->id);
  main_.queue.let_go(waiter->data.out);
  if (one_at_a_time_) changed_.notify_all();
  if (waiter->reply) return std::move(*waiter->reply);
  if (auto cancelled = cancel_.check(); !cancelled) return give_up(lock, std::move(cancelled).error());
  auto late = give_up(lock, Error(Errc::timeout, fmt::format("no answer to {} within {} ms",
                                                             to_string(waiter->command), timeout_.count())));
  return std::unexpected(std::move(late).error().with_context(name_));
}

// An answer may still come for a command that nobody waits for any more, so the device is lost.  Then the
// thread leaves the caller's memory and does not come back.
std::unexpected<Error> Connection::give_up(std::unique_lock<std::mutex>& lock, Error why) {
  if (!lost_) {
    lock.unlock();
    lose(why);
    lock.lock();
  } else {
    why = *lost_;
  }
  changed_.wait(lock, [&] { return !reading_; });
  return std::unexpected(std::move(why));
}

FrameReader::Landing Connection::landing(const Header& header) const {
  std::lock_guard lock(mutex_);
  const auto found = waiting_.find(header.id);
  if (!header.is_reply() || header.failed() || lost_ || found == waiting_.end()) return {};
  const auto& waiter = *found->second;
  const bool right = waiter.command == static_cast<Command>(header.command) && !waiter.reply;
  return right ? waiter.data.in : FrameReader::Landing{};
}

// Under the lock.
void Connection::send(Stream& stream, std::vector<std::byte> message, std::vector<UniqueFd> fds,
                      std::span<const std::byte> data) {
  stream.queue.push(std::move(message), std::move(fds), data);
  // A broken stream is found by the thread, which then loses the device.
  const auto sent = stream.queue.flush(stream.socket.get());
  if (!sent || !*sent) wake();
}

// Under the lock: the events that the thread waits for.
short Connection::wanted(const Stream& stream) const {
  short events = 0;
  if (stream.queue.bytes() < kMaxUnsent) events |= POLLIN;
  if (!stream.queue.empty()) events |= POLLOUT;
  return events;
}

void Connection::run() {
  for (;;) {
    pollfd fds[4] = {{wake_.get(), POLLIN, 0}, {cancel_.fd(), POLLIN, 0}, {-1, 0, 0}, {-1, 0, 0}};
    Stream* twin;
    {
      std::lock_guard lock(mutex_);
      if (stopping_ || lost_) return;
      fds[2] = {main_.socket.get(), wanted(main_), 0};
      twin = twin_.get();
      if (twin) fds[3] = {twin->socket.get(), wanted(*twin), 0};
    }
    if (::poll(fds, 4, -1) < 0 && errno != EINTR)
      return lose(Error(Errc::io, "poll: " + errno_text(errno), errno));
    if (fds[0].revents) {
      std::uint64_t count;
      [[maybe_unused]] auto drained = ::read(wake_.get(), &count, sizeof count);
    }
    if (auto cancelled = cancel_.check(); !cancelled) return lose(std::move(cancelled).error());
    if (fds[2].revents && !serve(main_, fds[2].revents)) return;
    if (twin && fds[3].revents && !serve(*twin, fds[3].revents)) return;
  }
}

bool Connection::serve(Stream& stream, short events) {
  {
    std::unique_lock lock(mutex_);
    if (auto sent = stream.queue.flush(stream.socket.get()); !sent) {
      lock.unlock();
      lose(std::move(sent).error());
      return false;
    }
    stream.reader.set_max_size(max_message_);
  }
  if (!(events & (POLLIN | POLLHUP | POLLERR))) return true;
  for (int i = 0; i < kBatch; ++i) {
    {
      std::lock_guard lock(mutex_);
      if (lost_) return false;
      reading_ = true;
    }
    auto message = stream.reader.read(stream.socket.get());
    {
      std::lock_guard lock(mutex_);
      reading_ = false;
      if (lost_) changed_.notify_all();
    }
    if (!message) {
      lose(std::move(message).error());
      return false;
    }
    if (!*message) return true;
    if (auto handled = handle(stream, std::move(**message)); !handled) {
      lose(std::move(handled).error());
      return false;
    }
  }
  return true;
}

Status Connection::handle(Stream& stream, Message message) {
  if (message.header.is_reply()) return take_reply(stream, std::move(message));
  if (!message.header.is_command())
    return fail(Errc::protocol, "the server sent a message of type {:#x}", message.header.flags);
  auto answer = dma_.answer(message);
  if (message.header.no_reply()) return {};
  std::lock_guard lock(mutex_);
  send(stream, std::move(answer));
  return {};
}

Status Connection::take_reply(const Stream& stream, Message message) {
  std::unique_lock lock(mutex_);
  const auto found = waiting_.find(message.header.id);
  if (&stream != &main_ || found == waiting_.end() || found->second->command != message.command() ||
      found->second->reply)
    return fail(Errc::protocol, "the server sent a reply to {} with id {} that nobody waits for",
                to_string(message.command()), message.header.id);
  auto& reply = found->second->reply;
  if (message.header.failed()) {
    const int error = sane_errno(message.header.error);
    reply = std::unexpected(Error(
        Errc::device,
        fmt::format("{} refused {}: {}", name_, to_string(message.command()), errno_text(error)), error));
  } else {
    reply = std::move(message);
  }
  const bool somebody_waits = found->second->awaited || found->second->forgotten;
  if (found->second->forgotten) waiting_.erase(found);
  lock.unlock();
  // Whoever runs ahead waits for the first of many replies: it is not woken by each of the others.
  if (somebody_waits) changed_.notify_all();
  return {};
}

}  // namespace handover::vfio_user
