#include "vfio_user/client/dma_service.h"

#include <algorithm>
#include <cerrno>

#include "handover/base/guarded_copy.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

constexpr std::uint64_t kMaxTransfer = Capabilities::kDefaultTransfer;

std::unexpected<Error> refuse(int err) {
  return std::unexpected(Error(Errc::invalid_argument, errno_text(err), err));
}

}  // namespace

Status DmaService::add(const vfio::DmaMapping& mapping) {
  const auto start = mapping.iova.value;
  const auto last = start + (mapping.size - 1);
  if (mapping.size == 0 || last < start)
    return fail(Errc::invalid_argument, "a DMA mapping of {:#x} bytes at {:#x} is empty or wraps",
                mapping.size, start);
  std::lock_guard lock(mutex_);
  const auto after = mappings_.upper_bound(last);
  if (after != mappings_.begin()) {
    const auto& [there, other] = *std::prev(after);
    if (there + (other.size - 1) >= start)
      return fail(Errc::invalid_argument, "a DMA mapping at {:#x} overlaps the one at {:#x}", start, there);
  }
  mappings_.emplace(start, mapping);
  return {};
}

void DmaService::remove(Iova start) {
  std::lock_guard lock(mutex_);
  mappings_.erase(start.value);
}

std::vector<vfio::DmaMapping> DmaService::touching(const vfio::IovaRange& range) const {
  std::vector<vfio::DmaMapping> found;
  if (range.size == 0) return found;
  std::lock_guard lock(mutex_);
  const auto first = range.start.value;
  auto each = mappings_.upper_bound(first);
  // The one before may reach into the range.
  if (each != mappings_.begin())
    if (const auto before = std::prev(each); before->first + (before->second.size - 1) >= first)
      each = before;
  for (; each != mappings_.end() && each->first <= first + (range.size - 1); ++each)
    found.push_back(each->second);
  return found;
}

// A part of one mapping: guest RAM by the file that it is in, other memory (of a peer's, which its process
// may cut short) by its address, and what has neither by taking the IOVA for a guest-physical address.
bool DmaService::copy_part(const vfio::DmaMapping& mapping, std::uint64_t offset, std::span<std::byte> to,
                           std::span<const std::byte> from) {
  const auto size = to.size() + from.size();
  const auto move = [&](Gpa at, std::size_t done, std::size_t count) {
    return to.empty() ? memory_.write(at, from.subspan(done, count))
                      : memory_.read(at, to.subspan(done, count));
  };
  const bool is_ram = mapping.fd >= 0 && std::ranges::any_of(memory_.blocks(), [&](const auto& block) {
                        return block->fd() == mapping.fd;
                      });
  if (!is_ram && mapping.host) {
    auto* host = static_cast<std::byte*>(mapping.host) + offset;
    return to.empty() ? guarded_write(host, from) : guarded_read(to, host);
  }
  if (!is_ram) return move(Gpa{mapping.iova.value + offset}, 0, size);
  // A block may appear in several pieces of the guest's address space.
  for (std::size_t done = 0; done < size;) {
    const auto in_file = mapping.offset + offset + done;
    const auto range = std::ranges::find_if(memory_.ranges(), [&](const MemoryRange& each) {
      return each.block->fd() == mapping.fd && in_file >= each.offset && in_file - each.offset < each.size;
    });
    if (range == memory_.ranges().end()) return false;
    const auto in_range = in_file - range->offset;
    const auto count = std::min<std::uint64_t>(size - done, range->size - in_range);
    if (!move(range->start + in_range, done, count)) return false;
    done += count;
  }
  return true;
}

// An errno, or 0.  One of the spans is empty.
int DmaService::copy(std::uint64_t address, std::span<std::byte> to, std::span<const std::byte> from) {
  const auto size = to.size() + from.size();
  if (size == 0) return 0;
  const auto permission = to.empty() ? vfio::kDmaWrite : vfio::kDmaRead;
  std::lock_guard lock(mutex_);
  const auto mapping_at = [&](std::uint64_t at) -> const vfio::DmaMapping* {
    const auto after = mappings_.upper_bound(at);
    if (after == mappings_.begin()) return nullptr;
    const auto& mapping = std::prev(after)->second;
    return at - mapping.iova.value < mapping.size ? &mapping : nullptr;
  };
  // All of it or nothing.
  for (const bool check : {true, false})
    for (std::size_t done = 0; done < size;) {
      const auto at = address + done;
      const auto* mapping = mapping_at(at);
      if (!mapping || at < address) return ENODEV;
      if (!(mapping->flags & permission)) return EPERM;
      const auto offset = at - mapping->iova.value;
      const auto count = std::min<std::uint64_t>(size - done, mapping->size - offset);
      if (!check && !copy_part(*mapping, offset, to.empty() ? to : to.subspan(done, count),
                               from.empty() ? from : from.subspan(done, count)))
        return ENODEV;
      done += count;
    }
  return 0;
}

Result<MessageBuilder> DmaService::serve(const Message& command) {
  const bool read = command.command() == Command::dma_read;
  if (!read && command.command() != Command::dma_write) return refuse(ENOSYS);
  if (!command.fds.empty()) return refuse(EINVAL);
  const auto access = DmaAccess::decode(command.payload);
  if (!access) return refuse(EINVAL);
  const auto& head = access->head;
  if (head.count > kMaxTransfer || (!read && head.count != access->data.size())) return refuse(E2BIG);
  MessageBuilder reply;
  auto& out = reply.add(head).payload();
  int error = 0;
  if (read) {
    const auto data_at = out.size();
    out.zeros(head.count);
    error = copy(head.address, out.view().subspan(data_at), {});
  } else {
    error = copy(head.address, {}, access->data);
  }
  if (error) {
    ++faults_;
    return refuse(error);
  }
  return reply;
}

std::vector<std::byte> DmaService::answer(const Message& command) {
  auto reply = serve(command);
  if (reply) return reply->finish(reply_header(command.header));
  return MessageBuilder().finish(reply_header(command.header, reply.error().sys_errno()));
}

}  // namespace handover::vfio_user
