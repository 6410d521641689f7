#include "vfio_user/server/message_dma.h"

#include <algorithm>

namespace handover::vfio_user {

using namespace protocol;

void MessageDma::connected(Send send, std::uint64_t max_transfer) {
  send_ = std::move(send);
  std::lock_guard lock(mutex_);
  limit_ = std::min<std::uint64_t>(max_transfer, kMaxMessage);
}

void MessageDma::disconnected() {
  send_ = nullptr;
  std::lock_guard lock(mutex_);
  limit_ = 0;
  for (auto& [id, request] : requests_)
    finish(*request, fail(Errc::closed, "the client is gone"));
  requests_.clear();
}

void MessageDma::cancel(std::uint64_t start, std::uint64_t last) {
  std::lock_guard lock(mutex_);
  std::erase_if(requests_, [&](auto& entry) {
    auto& request = *entry.second;
    if (request.address > last || request.address + (request.count - 1) < start) return false;
    finish(request, fail(Errc::invalid_argument, "DMA to {:#x}, which was unmapped", request.address));
    return true;
  });
}

bool MessageDma::waiting() const {
  std::lock_guard lock(mutex_);
  return !requests_.empty();
}

// Under the lock.
void MessageDma::finish(Request& request, Status result) {
  request.result = std::move(result);
  request.done = true;
  answered_.notify_all();
}

Status MessageDma::take_answer(Request& request, const Message& message) {
  if (message.header.failed())
    return fail(Errc::device, "the client refused DMA to {:#x}: {}", request.address,
                errno_text(static_cast<int>(message.header.error)));
  HANDOVER_ASSIGN(auto access, DmaAccess::decode(message.payload));
  const auto expected = request.command == Command::dma_read ? request.count : 0;
  if (access.head.address != request.address || access.head.count != request.count ||
      access.data.size() != expected)
    return fail(Errc::protocol, "the client answered DMA to {:#x} with something else", request.address);
  std::ranges::copy(access.data, request.to.begin());
  return {};
}

void MessageDma::answer(const Message& message) {
  std::lock_guard lock(mutex_);
  const auto found = requests_.find(message.header.id);
  if (found == requests_.end() || found->second->command != message.command()) return;
  auto& request = *found->second;
  requests_.erase(found);
  finish(request, take_answer(request, message));
}

Status MessageDma::exchange(Request& request, std::span<const std::byte> data) {
  MessageBuilder builder;
  builder.add(DmaAccessHead{request.address, request.count}).data(data);
  std::unique_lock lock(mutex_);
  if (limit_ == 0) return fail(Errc::closed, "no client to do DMA through");
  if (requests_.size() > 0x7fff) return fail(Errc::limit, "too much DMA by message at once");
  while (requests_.contains(next_id_))
    ++next_id_;
  const auto id = next_id_++;
  requests_[id] = &request;
  Header header;
  header.id = id;
  header.command = static_cast<std::uint16_t>(request.command);
  loop_.post([self = shared_from_this(), id, bytes = builder.finish(header)]() mutable {
    {
      // The question may have been given up since.
      std::lock_guard inner(self->mutex_);
      if (!self->requests_.contains(id)) return;
    }
    if (self->send_) self->send_(std::move(bytes));
  });
  answered_.wait(lock, [&] { return request.done; });
  return std::move(request.result);
}

Status MessageDma::transfer(Command command, Iova address, std::span<std::byte> to,
                            std::span<const std::byte> from) {
  if (loop_.in_loop())
    return fail(Errc::state, "DMA to {:#x} needs a message, which the event loop must not wait for",
                address.value);
  const auto size = command == Command::dma_read ? to.size() : from.size();
  for (std::size_t done = 0; done < size;) {
    std::uint64_t limit;
    {
      std::lock_guard lock(mutex_);
      limit = limit_;
    }
    if (limit == 0) return fail(Errc::closed, "no client that takes DMA by message");
    Request request;
    request.command = command;
    request.address = address.value + done;
    request.count = std::min<std::uint64_t>(size - done, limit);
    if (command == Command::dma_read) request.to = to.subspan(done, request.count);
    HANDOVER_TRY(exchange(request, command == Command::dma_read ? std::span<const std::byte>()
                                                                : from.subspan(done, request.count)));
    done += request.count;
  }
  return {};
}

Status MessageDma::read(Iova from, std::span<std::byte> to) {
  return transfer(Command::dma_read, from, to, {});
}

Status MessageDma::write(Iova to, std::span<const std::byte> from) {
  return transfer(Command::dma_write, to, {}, from);
}

}  // namespace handover::vfio_user
