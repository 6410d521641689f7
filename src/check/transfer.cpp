// Saving and loading, in pieces of any size.

#include <algorithm>

#include "check/bench.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::StateRead;
using Kind = vfio::StateRead::Kind;

namespace {

// What a device may say about a transfer, but not what it may make us allocate.
constexpr std::size_t kMaxChunk = 4 * MiB;

}  // namespace

std::size_t Bench::chunk() const {
  return std::clamp<std::size_t>(device_.migration()->preferred_chunk(), 1, kMaxChunk);
}

Result<StateRead> Bench::read(std::span<std::byte> buffer) {
  HANDOVER_TRY(cancel_.check());
  HANDOVER_ASSIGN_CONTEXT(const auto got, migration().read(buffer), "reading {} bytes of state",
                          buffer.size());
  if (got.bytes > buffer.size())
    return fail(Errc::protocol, "{} bytes of state came where {} were asked for", got.bytes, buffer.size());
  if (got.kind == Kind::data && got.bytes == 0)
    return fail(Errc::protocol, "a read of {} bytes gave none, and no end or pause either", buffer.size());
  return got;
}

Status Bench::session_answers() {
  Bytes some(kPageSize);
  HANDOVER_TRY_CONTEXT(read(some), "the data session does not answer");
  return {};
}

Status Bench::read_to_end(SavedState& to, Cut cut) {
  for (std::size_t turn = 0;; ++turn) {
    buffer_.resize(cut.size != 0 && turn < cut.count ? cut.size : chunk());
    HANDOVER_ASSIGN(const auto got, read(buffer_));
    if (got.kind == Kind::nothing_now)
      return fail(Errc::protocol, "the device pauses in stop-copy, after {} bytes", to.bytes.size());
    if (got.bytes > 0) {
      to.bytes.insert(to.bytes.end(), buffer_.begin(),
                      buffer_.begin() + static_cast<std::ptrdiff_t>(got.bytes));
      to.pieces.push_back(got.bytes);
    }
    if (got.kind == Kind::end) return {};
    if (to.bytes.size() > options_.max_state)
      return fail(Errc::limit, "the device gave {} bytes of state and came to no end", to.bytes.size());
  }
}

Result<bool> Bench::read_to_pause(SavedState& to, std::uint64_t most, Cut cut) {
  const auto start = to.bytes.size();
  for (std::size_t turn = 0; to.bytes.size() - start < most; ++turn) {
    const auto want = cut.size != 0 && turn < cut.count ? cut.size : chunk();
    buffer_.resize(std::min<std::uint64_t>(want, most - (to.bytes.size() - start)));
    HANDOVER_ASSIGN(const auto got, read(buffer_));
    if (got.kind == Kind::end)
      return fail(Errc::protocol, "the device ends its state in pre-copy, after {} bytes", to.bytes.size());
    if (got.bytes > 0) {
      to.bytes.insert(to.bytes.end(), buffer_.begin(),
                      buffer_.begin() + static_cast<std::ptrdiff_t>(got.bytes));
      to.pieces.push_back(got.bytes);
    }
    if (got.kind == Kind::nothing_now) return true;
  }
  return false;
}

Status Bench::write(const SavedState& state) {
  std::span<const std::byte> left = state.bytes;
  for (const auto piece : state.pieces) {
    HANDOVER_TRY(cancel_.check());
    HANDOVER_TRY_CONTEXT(migration().write(left.first(piece)), "writing bytes {} to {} of the state",
                         state.bytes.size() - left.size(), state.bytes.size() - left.size() + piece);
    left = left.subspan(piece);
  }
  return {};
}

Status Bench::write(std::span<const std::byte> bytes, Cut cut) {
  std::size_t at = 0;
  for (std::size_t turn = 0; at < bytes.size(); ++turn) {
    HANDOVER_TRY(cancel_.check());
    const auto want = cut.size != 0 && turn < cut.count ? cut.size : chunk();
    const auto piece = bytes.subspan(at, std::min(want, bytes.size() - at));
    HANDOVER_TRY_CONTEXT(migration().write(piece), "writing bytes {} to {} of the state", at,
                         at + piece.size());
    at += piece.size();
  }
  return {};
}

Result<SavedState> Bench::save(Cut cut) {
  SavedState state;
  HANDOVER_TRY(enter(DeviceState::stop_copy));
  HANDOVER_TRY(read_to_end(state, cut));
  HANDOVER_TRY(enter(DeviceState::running));
  return state;
}

Status Bench::load(const SavedState& state) {
  HANDOVER_TRY(enter(DeviceState::resuming));
  HANDOVER_TRY(write(state));
  return enter(DeviceState::running);
}

Status Bench::works() {
  HANDOVER_TRY(enter(DeviceState::running));
  HANDOVER_TRY_CONTEXT(save(), "the device does not work any more");
  return {};
}

Status Bench::finish_load() {
  HANDOVER_TRY(write(sample()));
  return ask(DeviceState::stop);
}

}  // namespace handover::check
