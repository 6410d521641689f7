#include "vfio_user/server/session.h"

#include <cerrno>

#include "handover/base/log.h"
#include "handover/base/trace.h"

namespace handover::vfio_user {

using namespace protocol;

int errno_of(const Error& error) {
  if (error.sys_errno() > 0 && error.sys_errno() < 4096) return error.sys_errno();
  switch (error.code()) {
    case Errc::not_found:
      return ENOENT;
    case Errc::unsupported:
      return EOPNOTSUPP;
    case Errc::limit:
      return E2BIG;
    case Errc::cancelled:
      return ECANCELED;
    case Errc::timeout:
      return ETIMEDOUT;
    case Errc::io:
    case Errc::closed:
    case Errc::device:
      return EIO;
    case Errc::invalid_argument:
    case Errc::state:
    case Errc::protocol:
    case Errc::mismatch:
      return EINVAL;
  }
  return EINVAL;
}

Session::Session(Host& host, UniqueFd socket)
    : host_(host),
      main_(std::make_shared<Channel>(host.loop.context(), std::move(socket),
                                      host.options.max_data_xfer_size + kMessageSlack)) {
}

void Session::start(std::function<void()> ended) {
  ended_ = std::move(ended);
  const std::weak_ptr<Session> weak = shared_from_this();
  main_->start({
      .message =
          [weak](Message message) {
            if (auto self = weak.lock()) self->on_message(std::move(message));
          },
      .ended =
          [weak](const Error& error) {
            if (auto self = weak.lock()) self->on_ended(error);
          },
      .drained =
          [weak] {
            if (auto self = weak.lock()) self->update_reading();
          },
  });
}

void Session::on_ended(const Error& error) {
  // Only then is the stream still good for an answer.
  if (error.code() == Errc::limit && main_->refused()) return refuse_and_close(*main_->refused(), error);
  close(error.to_string());
}

void Session::refuse_and_close(const Header& command, const Error& error) {
  reply(command, std::unexpected(error));
  close(error.to_string());
}

void Session::close(const std::string& reason) {
  if (std::exchange(closed_, true)) return;
  log::info("device `{}`: client gone: {}", host_.spec.name, reason);
  main_->close();
  if (twin_) twin_->close();
  waiting_.clear();
  host_.messages->disconnected();
  host_.walker->stop_walking();
  if (!busy_) std::exchange(ended_, nullptr)();
}

void Session::on_message(Message message) {
  if (closed_) return;
  if (message.header.is_reply()) {
    // Without a twin socket the answers to our own commands come between the client's commands.
    if (!twin_) host_.messages->answer(message);
    return;
  }
  if (busy_ || !waiting_.empty()) {
    waiting_bytes_ += message.payload.size() + kHeaderSize;
    waiting_.push_back(std::move(message));
    if (waiting_.size() > 4 * kMaxWaiting || waiting_bytes_ > 4 * kMaxWaitingBytes)
      return close("it sent more commands than can wait while the device is busy");
  } else {
    execute(std::move(message));
  }
  update_reading();
}

void Session::update_reading() {
  if (closed_) return;
  const bool full = waiting_.size() >= kMaxWaiting || waiting_bytes_ >= kMaxWaitingBytes;
  // What the device waits for may stand behind the commands that nobody may run yet.
  const bool need_answers = !twin_ && host_.messages->waiting();
  main_->set_reading(main_->unsent() < kMaxUnsent && (!full || need_answers));
}

void Session::run_waiting() {
  while (!closed_ && !busy_ && !waiting_.empty()) {
    auto message = std::move(waiting_.front());
    waiting_.pop_front();
    waiting_bytes_ -= message.payload.size() + kHeaderSize;
    execute(std::move(message));
  }
  update_reading();
}

void Session::execute(Message message) {
  HANDOVER_TRACE(vfio_user_server_command, message.header.command, message.header.size);
  if (!negotiated_) return negotiate(message);
  current_ = message.header;
  busy_ = true;
  auto outcome = dispatch(message);
  if (outcome && !*outcome) return;
  busy_ = false;
  if (outcome)
    reply(current_, std::move(**outcome));
  else
    reply(current_, std::unexpected(std::move(outcome).error()));
}

// The end of a command that the device model finished later.
void Session::complete(Result<Reply> result) {
  busy_ = false;
  if (closed_) {
    if (ended_) std::exchange(ended_, nullptr)();
    return;
  }
  reply(current_, std::move(result));
  run_waiting();
}

void Session::reply(const Header& command, Result<Reply> result) {
  if (!result)
    log::debug("device `{}`: {} refused: {}", host_.spec.name,
               protocol::to_string(static_cast<Command>(command.command)), result.error().to_string());
  if (command.no_reply()) return;
  if (!result) return main_->send(MessageBuilder().finish(reply_header(command, errno_of(result.error()))));
  auto message = result->payload.finish(reply_header(command), result->data.size());
  main_->send(std::move(message), std::move(result->fds), std::move(result->data));
}

Outcome Session::dispatch(Message& message) {
  if (!message.header.is_command()) return refuse(EINVAL, "message of type {:#x}", message.header.flags);
  switch (message.command()) {
    case Command::dma_map:
      return dma_map(message);
    case Command::dma_unmap:
      return dma_unmap(message);
    case Command::device_get_info:
      return get_info(message);
    case Command::device_get_region_info:
      return get_region_info(message);
    case Command::device_get_region_io_fds:
      return get_region_io_fds(message);
    case Command::device_get_irq_info:
      return get_irq_info(message);
    case Command::device_set_irqs: {
      HANDOVER_TRY(host_.irqs.set(message.payload, std::move(message.fds)));
      return Reply{};
    }
    case Command::region_read:
      return region_read(message);
    case Command::region_write:
      return region_write(message);
    case Command::region_write_multi:
      return region_write_multi(message);
    case Command::device_reset:
      return device_reset();
    case Command::device_feature:
      return device_feature(message);
    case Command::mig_data_read:
      return mig_data_read(message);
    case Command::mig_data_write:
      return mig_data_write(message);
    case Command::version:
    case Command::dma_read:
    case Command::dma_write:
    case Command::dirty_pages:
      break;
  }
  return refuse(EINVAL, "command {} is not one for a server", message.header.command);
}

}  // namespace handover::vfio_user
