#include "vfio_user/server/v1_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "handover/base/byte_order.h"
#include "vfio_user/server/refusal.h"

namespace handover::vfio_user {

using vfio::DeviceState;
namespace v1 = vfio::v1;

namespace {

struct V1Arc {
  std::uint32_t from;
  std::uint32_t to;
};
/// What v1 asks of every driver (1>0, 1>2>0, 1>3>2>0, 1>4, 4>1, back to 1 from 3, 2 and 0), and what clients
/// use beyond it: to save or load a device that is stopped already, to judge a load before the device starts,
/// and to leave pre-copy by stopping.
constexpr V1Arc kArcs[] = {
    {v1::kRunning, v1::kStop},     {v1::kRunning, v1::kSaving}, {v1::kRunning, v1::kPreCopy},
    {v1::kRunning, v1::kResuming}, {v1::kStop, v1::kRunning},   {v1::kStop, v1::kSaving},
    {v1::kStop, v1::kResuming},    {v1::kPreCopy, v1::kSaving}, {v1::kPreCopy, v1::kRunning},
    {v1::kPreCopy, v1::kStop},     {v1::kSaving, v1::kStop},    {v1::kSaving, v1::kRunning},
    {v1::kResuming, v1::kRunning}, {v1::kResuming, v1::kStop},
};

bool is_arc(std::uint32_t from, std::uint32_t to) {
  return std::ranges::any_of(kArcs, [&](const V1Arc& arc) { return arc.from == from && arc.to == to; });
}

}  // namespace

Result<std::unique_ptr<V1Region>> V1Region::create(Host& host) {
  UniqueFd file;
  Mapping shared;
  if (host.options.v1_data_mappable) {
    const auto size = kDataOffset + host.options.v1_data_size;
    file = UniqueFd(::memfd_create("migration", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!file || ::ftruncate(file.get(), static_cast<off_t>(size)) < 0 ||
        ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
      return fail_errno(errno, "cannot make {} bytes of migration data section", size);
    HANDOVER_ASSIGN(shared, Mapping::shared(file.get(), 0, size, PROT_READ | PROT_WRITE));
  }
  return std::unique_ptr<V1Region>(new V1Region(host, std::move(file), std::move(shared)));
}

V1Region::V1Region(Host& host, UniqueFd file, Mapping shared)
    : host_(host),
      file_(std::move(file)),
      shared_(std::move(shared)),
      own_(host.options.v1_data_size),
      spec_{.size = kDataOffset + own_.size(), .flags = vfio::kRegionRead | vfio::kRegionWrite, .areas = {}} {
  if (!file_) return;
  spec_.fd = file_.get();
  spec_.areas = {{kDataOffset, own_.size()}};
}

std::uint32_t V1Region::device_state() const {
  if (named_pre_copy_) return v1::kPreCopy;
  // The P2P states are not offered, so a device is never left there.
  return v1::bits_of(host_.walker->state()).value_or(v1::kError);
}

void V1Region::forget() {
  chunk_ = Chunk::none;
  size_ = 0;
  ended_ = false;
  named_pre_copy_ = false;
}

Result<bool> V1Region::set_state(std::uint32_t value, Done done) {
  const auto to = v1::state_of(value);
  if (value & ~v1::kStateMask || !to || *to == DeviceState::error)
    return refuse(EINVAL, "device_state {:#x}", value);
  const auto from = device_state();
  if (value == from) return true;
  if (!is_arc(from, value)) return refuse(EINVAL, "protocol v1 has no way from state {} to {}", from, value);
  // Every v1 device has pre-copy; one that has nothing to send in it just goes on running.
  if (value == v1::kPreCopy && !(host_.spec.migration_features & vfio::kMigrationPreCopy)) {
    reached(from, value);
    return true;
  }
  host_.walker->go(*to, [this, from, value, done = std::move(done)](Status status) {
    auto& walker = *host_.walker;
    if (status) {
      reached(from, value);
    } else if (walker.state() == DeviceState::resuming && status.error().code() != Errc::cancelled) {
      // Nothing but a reset helps a device that refused what it was given.
      walker.give_up();
    } else if (walker.state() != DeviceState::running) {
      named_pre_copy_ = false;
    }
    done(std::move(status));
  });
  return false;
}

void V1Region::reached(std::uint32_t from, std::uint32_t to) {
  named_pre_copy_ = to == v1::kPreCopy && host_.walker->state() == DeviceState::running;
  const bool goes_on = (from & v1::kSaving) && (to & v1::kSaving);
  if (goes_on) return;
  chunk_ = Chunk::none;
  size_ = 0;
  ended_ = false;
}

std::uint64_t V1Region::estimate() const {
  const auto unknown = own_.size();
  if (named_pre_copy_) return 0;
  if (host_.walker->state() == DeviceState::pre_copy) {
    const auto info = host_.model.precopy_info();
    return info ? info->initial_bytes + info->dirty_bytes : unknown;
  }
  // 0 would be the end, which only the model's data can say.
  return ended_ ? 0 : std::max<std::uint64_t>(1, host_.model.stop_copy_size().value_or(unknown));
}

std::uint64_t V1Region::read_pending() {
  if (!(device_state() & v1::kSaving) || device_state() == v1::kError) return 0;
  if (chunk_ == Chunk::sized) size_ = 0;
  // Of a chunk whose size nobody has asked for, nothing can have been taken.
  const auto pending = size_ + estimate();
  chunk_ = pending > 0 ? Chunk::announced : Chunk::none;
  return pending;
}

// Saving: the model's next chunk, unless there is one that was not taken.
Status V1Region::place_chunk() {
  if (chunk_ == Chunk::placed || chunk_ == Chunk::sized) return {};
  if (device_state() == v1::kResuming) {
    chunk_ = Chunk::placed;
    return {};
  }
  if (chunk_ == Chunk::none) return refuse(EINVAL, "data_offset is read before pending_bytes");
  if (size_ == 0) {
    HANDOVER_ASSIGN(const auto got, host_.model.migration_read(own_));
    if (got > own_.size())
      return refuse(EIO, "the device gave {} bytes where {} were asked for", got, own_.size());
    size_ = got;
    ended_ = host_.walker->state() == DeviceState::stop_copy && got < own_.size();
    if (shared_) std::ranges::copy(std::span(own_).first(got), section().begin());
  }
  chunk_ = Chunk::placed;
  return {};
}

Result<std::uint64_t> V1Region::read_register(std::uint64_t offset) {
  const auto state = device_state();
  const bool saving = state == v1::kSaving || state == v1::kPreCopy;
  switch (offset) {
    case v1::kPendingBytes:
      return read_pending();
    case v1::kDataOffset:
      if (!saving && state != v1::kResuming) return refuse(EINVAL, "data_offset is read in state {}", state);
      HANDOVER_TRY(place_chunk());
      return kDataOffset;
    default:
      if (!saving || (chunk_ != Chunk::placed && chunk_ != Chunk::sized))
        return refuse(EINVAL, "data_size is read in state {} before data_offset", state);
      chunk_ = Chunk::sized;
      return size_;
  }
}

Status V1Region::read(std::uint64_t offset, std::span<std::byte> to) {
  if (offset >= kDataOffset) {
    const bool sized = (device_state() & v1::kSaving) && chunk_ == Chunk::sized;
    if (!sized || !range_fits(offset - kDataOffset, to.size(), size_))
      return refuse(EINVAL, "data [{:#x}, +{:#x}) is read, the chunk has {} bytes, data_size was {}read",
                    offset, to.size(), size_, sized ? "" : "not ");
    std::ranges::copy(section().subspan(offset - kDataOffset, to.size()), to.begin());
    return {};
  }
  if (to.size() == sizeof(std::uint32_t) && (offset == v1::kDeviceState || offset == v1::kReserved)) {
    store_int<std::uint32_t, std::endian::native>(to.data(), offset == v1::kReserved ? 0 : device_state());
    return {};
  }
  if (to.size() != sizeof(std::uint64_t) ||
      (offset != v1::kPendingBytes && offset != v1::kDataOffset && offset != v1::kDataSize))
    return refuse(EINVAL, "no register of {} bytes at {:#x}", to.size(), offset);
  HANDOVER_ASSIGN(const auto value, read_register(offset));
  store_int<std::uint64_t, std::endian::native>(to.data(), value);
  return {};
}

Status V1Region::load_chunk(std::uint64_t size) {
  if (device_state() != v1::kResuming || chunk_ != Chunk::placed)
    return refuse(EINVAL, "data_size is written in state {}{}", device_state(),
                  chunk_ == Chunk::placed ? "" : " without a data_offset");
  if (size > own_.size())
    return refuse(EINVAL, "a chunk of {} bytes; the data section has {}", size, own_.size());
  chunk_ = Chunk::none;
  if (size == 0) return {};
  const auto chunk = std::span(own_).first(size);
  if (shared_) std::ranges::copy(section().first(size), chunk.begin());
  return host_.model.migration_write(chunk);
}

Status V1Region::write(std::uint64_t offset, std::span<const std::byte> from) {
  if (offset >= kDataOffset) {
    if (device_state() != v1::kResuming || chunk_ != Chunk::placed)
      return refuse(EINVAL, "data is written in state {}{}", device_state(),
                    chunk_ == Chunk::placed ? "" : " without a data_offset");
    std::ranges::copy(from, section().subspan(offset - kDataOffset, from.size()).begin());
    return {};
  }
  if (offset == v1::kReserved && from.size() == sizeof(std::uint32_t)) return {};
  if (offset == v1::kDataSize && from.size() == sizeof(std::uint64_t))
    return load_chunk(load_int<std::uint64_t, std::endian::native>(from.data()));
  return refuse(EINVAL, "no register to write {} bytes to at {:#x}", from.size(), offset);
}

}  // namespace handover::vfio_user
