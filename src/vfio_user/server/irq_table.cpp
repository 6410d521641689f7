#include "vfio_user/server/irq_table.h"

#include <poll.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <climits>
#include <string_view>

#include "handover/base/units.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

constexpr std::uint32_t kDataFlags = kIrqDataNone | kIrqDataBool | kIrqDataEventfd;
constexpr std::uint32_t kActionFlags = kIrqActionMask | kIrqActionUnmask | kIrqActionTrigger;

std::unexpected<Error> refuse(std::string text) {
  return std::unexpected(Error(Errc::invalid_argument, "SET_IRQS: " + std::move(text), EINVAL));
}

// A client could pass anything; a pipe or a socket would block whoever signals it.
bool is_eventfd(int fd) {
  char target[PATH_MAX];
  const auto path = fmt::format("/proc/self/fd/{}", fd);
  const auto length = ::readlink(path.c_str(), target, sizeof target);
  return length > 0 && std::string_view(target, static_cast<std::size_t>(length)) == "anon_inode:[eventfd]";
}

void signal(const std::shared_ptr<UniqueFd>& eventfd) {
  if (!eventfd) return;
  // A counter that is full is readable already; writing to it could block.
  pollfd ready{eventfd->get(), POLLOUT, 0};
  if (::poll(&ready, 1, 0) != 1 || !(ready.revents & POLLOUT)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] auto written = ::write(eventfd->get(), &one, sizeof one);
}

}  // namespace

IrqTable::IrqTable(std::span<const std::uint32_t, vfio::kPciIrqs> counts) {
  for (std::size_t i = 0; i < counts.size(); ++i)
    vectors_[i].resize(counts[i]);
}

Status IrqTable::set(std::span<const std::byte> payload, std::vector<UniqueFd> fds) {
  HANDOVER_ASSIGN(auto message, SetIrqs::decode(payload));
  const auto& [argsz, flags, index, start, count] = message.head;
  const auto data = flags & kDataFlags;
  const auto action = flags & kActionFlags;
  if (argsz < wire_size<SetIrqsHead>()) return refuse("argsz is too small");
  if (flags & ~(kDataFlags | kActionFlags)) return refuse("unknown flags");
  if (std::popcount(data) != 1 || std::popcount(action) != 1)
    return refuse("not exactly one kind of data and action");
  if (index >= vfio::kPciIrqs) return refuse(fmt::format("no interrupt index {}", index));
  if (!fds.empty() && data != kIrqDataEventfd) return refuse("descriptors with data that are none");

  if (count == 0) {
    if (start != 0 || data != kIrqDataNone || action != kIrqActionTrigger) return refuse("no vectors");
    return install(index, 0, this->count(index), {});
  }
  if (!range_fits(start, count, this->count(index)))
    return refuse(fmt::format("vectors {} and {} more of index {}, which has {}", start, count, index,
                              this->count(index)));
  if ((index == vfio::kIrqErr || index == vfio::kIrqReq) &&
      (action != kIrqActionTrigger || start != 0 || count > 1))
    return refuse("ERR and REQ have one vector, to be triggered only");
  if (data == kIrqDataBool && message.data.size() != count) return refuse("not one byte a vector");

  if (data == kIrqDataEventfd) {
    // An eventfd that would mask or unmask needs somebody to wait on it; nobody offers that.
    if (action != kIrqActionTrigger) return refuse("eventfds for masking are not supported");
    if (!fds.empty() && fds.size() != count) return refuse("not one descriptor a vector");
    for (const auto& fd : fds)
      if (!is_eventfd(fd.get())) return refuse("a descriptor is no eventfd");
    return install(index, start, count, std::move(fds));
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    if (data == kIrqDataBool && message.data[i] == std::byte{0}) continue;
    if (action == kIrqActionTrigger)
      trigger(index, start + i);
    else
      set_masked(index, start + i, action == kIrqActionMask);
  }
  return {};
}

// No descriptors: removes those of the range.
Status IrqTable::install(std::uint32_t index, std::uint32_t start, std::uint32_t count,
                         std::vector<UniqueFd> fds) {
  std::vector<Vector> old(count);  // closed after the lock is free
  std::lock_guard lock(mutex_);
  for (std::uint32_t i = 0; i < count; ++i) {
    auto& vector = vectors_[index][start + i];
    std::swap(vector.eventfd, old[i].eventfd);
    if (fds.empty())
      vector = {};
    else
      vector.eventfd = std::make_shared<UniqueFd>(std::move(fds[i]));
  }
  return {};
}

void IrqTable::set_masked(std::uint32_t index, std::uint32_t vector, bool masked) {
  std::shared_ptr<UniqueFd> due;
  {
    std::lock_guard lock(mutex_);
    auto& entry = vectors_[index][vector];
    entry.masked = masked;
    if (!masked && std::exchange(entry.pending, false)) due = entry.eventfd;
  }
  signal(due);
}

void IrqTable::trigger(std::uint32_t index, std::uint32_t vector) {
  std::shared_ptr<UniqueFd> due;
  {
    std::lock_guard lock(mutex_);
    if (index >= vfio::kPciIrqs || vector >= vectors_[index].size()) return;
    auto& entry = vectors_[index][vector];
    if (entry.masked)
      entry.pending = true;
    else
      due = entry.eventfd;
  }
  signal(due);
}

void IrqTable::clear() {
  for (std::uint32_t index = 0; index < vfio::kPciIrqs; ++index)
    (void)install(index, 0, count(index), {});
}

}  // namespace handover::vfio_user
