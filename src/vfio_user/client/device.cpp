#include "vfio_user/client/device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "vfio_user/transport/unix_socket.h"

namespace handover::vfio_user {

using namespace protocol;

ClientDevice::ClientDevice(const ClientOptions& options, UniqueFd socket, GuestMemory& memory,
                           CancelToken cancel)
    : id_(options.id),
      name_(fmt::format("device `{}` at {}", options.id, options.socket_path)),
      dma_(memory),
      connection_(name_, std::move(socket), options.timeout, std::move(cancel), dma_) {
}

Status ClientDevice::check_access(std::uint32_t index, std::uint64_t offset, std::uint64_t size) const {
  if (index >= regions_.size() || !range_fits(offset, size, regions_[index].info.size))
    return fail(Errc::invalid_argument, "{}: [{:#x}, +{:#x}) is not in region {}", name_, offset, size,
                index);
  return {};
}

Status ClientDevice::region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) {
  HANDOVER_TRY(check_access(index, offset, to.size()));
  for (std::size_t done = 0; done < to.size();) {
    const auto part = to.subspan(done, std::min(to.size() - done, peer_.max_transfer));
    const RegionAccessHead head{offset + done, index, static_cast<std::uint32_t>(part.size())};
    const Connection::Data into{.out = {}, .in = {wire_size<RegionAccessHead>(), part}};
    HANDOVER_ASSIGN(const auto reply,
                    connection_.call(Command::region_read, MessageBuilder().add(head), into));
    HANDOVER_ASSIGN_CONTEXT(const auto access, RegionAccess::decode(reply.payload), "{}", name_);
    if (access.head.count != head.count || reply.landed != part.size())
      return fail(Errc::protocol, "{} gave {} bytes of region {} where {} were asked for", name_,
                  reply.landed + access.data.size(), index, part.size());
    done += part.size();
  }
  return {};
}

Status ClientDevice::region_write(std::uint32_t index, std::uint64_t offset,
                                  std::span<const std::byte> from) {
  HANDOVER_TRY(check_access(index, offset, from.size()));
  for (std::size_t done = 0; done < from.size();) {
    const auto part = from.subspan(done, std::min(from.size() - done, peer_.max_transfer));
    const RegionAccessHead head{offset + done, index, static_cast<std::uint32_t>(part.size())};
    HANDOVER_TRY(
        connection_.call(Command::region_write, MessageBuilder().add(head), {.out = part, .in = {}}));
    done += part.size();
  }
  return {};
}

Result<Mapping> ClientDevice::map_area(std::uint32_t index, const vfio::RegionArea& area) {
  HANDOVER_TRY(check_access(index, area.offset, area.size));
  const auto& region = regions_[index];
  const auto allowed = std::ranges::any_of(region.info.areas, [&](const vfio::RegionArea& each) {
    return area.offset >= each.offset && range_fits(area.offset - each.offset, area.size, each.size);
  });
  if (!region.file || !allowed)
    return fail(Errc::unsupported, "{}: [{:#x}, +{:#x}) of region {} cannot be mapped", name_, area.offset,
                area.size, index);
  const auto at = region.info.offset + area.offset;
  if (area.size == 0 || area.size % kPageSize != 0 || at % kPageSize != 0 || at < area.offset)
    return fail(Errc::invalid_argument, "{}: an area of region {} is not made of whole pages", name_, index);
  struct stat file;
  if (::fstat(region.file.get(), &file) < 0) return fail_errno(errno, "{}: region {}", name_, index);
  if (!range_fits(at, area.size, static_cast<std::uint64_t>(file.st_size)))
    return fail(Errc::protocol, "{}: an area of region {} lies beyond the end of its file", name_, index);
  const int prot = (region.info.flags & vfio::kRegionRead ? PROT_READ : 0) |
                   (region.info.flags & vfio::kRegionWrite ? PROT_WRITE : 0);
  HANDOVER_ASSIGN_CONTEXT(auto mapping, Mapping::shared(region.file.get(), at, area.size, prot),
                          "{}: region {}", name_, index);
  return mapping;
}

vfio::AreaFile ClientDevice::area_file(std::uint32_t index, const vfio::RegionArea& area) const {
  const auto& region = regions_.at(index);
  if (!region.file) return {};
  return {region.file.get(), region.info.offset + area.offset};
}

Status ClientDevice::set_irqs(const SetIrqsHead& head, std::vector<UniqueFd> fds) {
  HANDOVER_TRY_CONTEXT(connection_.call(Command::device_set_irqs, MessageBuilder().add(head), std::move(fds)),
                       "cannot set up interrupts of index {}", head.index);
  return {};
}

Status ClientDevice::set_irq_eventfds(std::uint32_t index, std::span<const int> eventfds) {
  if (index >= irqs_.size() || eventfds.size() > irqs_[index].count)
    return fail(Errc::invalid_argument, "{} has no {} vectors of interrupt index {}", name_, eventfds.size(),
                index);
  auto& installed = installed_[index];
  bool removes = false;
  for (std::size_t i = 0; i < installed.size(); ++i)
    removes = removes || (installed[i] && (i >= eventfds.size() || eventfds[i] < 0));
  // Some servers cannot remove a part of the vectors, so all go.
  if (removes) {
    HANDOVER_TRY(set_irqs({20, kIrqDataNone | kIrqActionTrigger, index, 0, 0}, {}));
    installed.assign(installed.size(), false);
  }
  for (std::size_t start = 0; start < eventfds.size();) {
    if (eventfds[start] < 0) {
      ++start;
      continue;
    }
    if (peer_.max_fds == 0)
      return fail(Errc::unsupported, "{} takes no descriptors, so no interrupts", name_);
    std::vector<UniqueFd> fds;
    for (auto i = start; i < eventfds.size() && eventfds[i] >= 0 && fds.size() < peer_.max_fds; ++i) {
      fds.emplace_back(::fcntl(eventfds[i], F_DUPFD_CLOEXEC, 0));
      if (!fds.back()) return fail_errno(errno, "{}: cannot pass the eventfd of vector {}", name_, i);
    }
    const auto count = fds.size();
    HANDOVER_TRY(set_irqs({20, kIrqDataEventfd | kIrqActionTrigger, index, static_cast<std::uint32_t>(start),
                           static_cast<std::uint32_t>(count)},
                          std::move(fds)));
    std::fill_n(installed.begin() + static_cast<std::ptrdiff_t>(start), count, true);
    start += count;
  }
  return {};
}

Status ClientDevice::unmask_irq(std::uint32_t index) {
  return set_irqs({20, kIrqDataNone | kIrqActionUnmask, index, 0, 1}, {});
}

Status ClientDevice::reset() {
  if (!(info_.flags & vfio::kDeviceFlagReset)) return fail(Errc::unsupported, "{} cannot be reset", name_);
  HANDOVER_TRY(connection_.call(Command::device_reset, {}));
  if (v2_) v2_->forget_session();
  return {};
}

Result<std::unique_ptr<vfio::Device>> connect(ClientOptions options, GuestMemory& memory,
                                              CancelToken cancel) {
  const auto open = [&]() -> Result<std::unique_ptr<ClientDevice>> {
    const auto deadline = std::chrono::steady_clock::now() + options.timeout;
    HANDOVER_ASSIGN(auto socket, connect_unix(options.socket_path, cancel, deadline));
    return ClientDevice::open(options, std::move(socket), memory, cancel);
  };
  auto device = open();
  if (device) return std::unique_ptr<vfio::Device>(std::move(*device));
  auto error = std::move(device).error();
  const bool nobody = error.code() == Errc::not_found;
  error = std::move(error).with_context(fmt::format("cannot connect device `{}`", options.id));
  if (!nobody) return std::unexpected(std::move(error));
  return fail(Errc::not_found, "{}; start the device server first (handover serve ...)", error.to_string());
}

}  // namespace handover::vfio_user
