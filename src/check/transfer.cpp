// Saving and loading, in pieces of any size.

#include <algorithm>
#include <chrono>
#include <thread>

#include "check/bench.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::StateRead;
using Kind = vfio::StateRead::Kind;

namespace {

// What a device may say about a transfer, but not what it may make us allocate.
constexpr std::size_t kMaxChunk = 64 * MiB;
// A v1 device that is late in stop-copy, and for how long.
constexpr std::chrono::milliseconds kBetweenLooks{1};
constexpr int kMostLooks = 30000;

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

std::size_t Bench::part() const {
  return device_.migration()->keeps_chunks() ? chunk() : kPageSize;
}

Result<StateRead> Bench::read_some() {
  buffer_.resize(part());
  return read(buffer_);
}

Result<StateRead> Bench::append(SavedState& to, std::size_t want) {
  buffer_.resize(want);
  HANDOVER_ASSIGN(const auto got, read(buffer_));
  if (got.bytes > 0) {
    to.bytes.insert(to.bytes.end(), buffer_.begin(),
                    buffer_.begin() + static_cast<std::ptrdiff_t>(got.bytes));
    to.pieces.push_back(got.bytes);
  }
  return got;
}

Status Bench::read_part(SavedState& to) {
  HANDOVER_TRY(append(to, part()));
  return {};
}

Status Bench::read_to_end(SavedState& to, Cut cut) {
  int looks = 0;
  for (std::size_t turn = 0;; ++turn) {
    HANDOVER_ASSIGN(const auto got, append(to, cut.size != 0 && turn < cut.count ? cut.size : chunk()));
    if (got.kind == Kind::end) return {};
    if (to.bytes.size() > options_.max_state)
      return fail(Errc::limit, "the device gave {} bytes of state and came to no end", to.bytes.size());
    if (got.kind != Kind::nothing_now) continue;
    if (!keeps_chunks() || ++looks == kMostLooks)
      return fail(Errc::protocol, "the device pauses in stop-copy, after {} bytes", to.bytes.size());
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

Result<bool> Bench::read_to_pause(SavedState& to, std::uint64_t least, Cut cut) {
  const auto start = to.bytes.size();
  for (std::size_t turn = 0; to.bytes.size() - start < least; ++turn) {
    HANDOVER_ASSIGN(const auto got, append(to, cut.size != 0 && turn < cut.count ? cut.size : chunk()));
    if (got.kind == Kind::end)
      return fail(Errc::protocol, "the device ends its state in pre-copy, after {} bytes", to.bytes.size());
    if (got.kind == Kind::nothing_now) return true;
  }
  return false;
}

Status Bench::read_a_little(SavedState& to) {
  constexpr std::size_t kLittle = 7;
  HANDOVER_TRY(read_to_pause(to, 1, keeps_chunks() ? Cut{} : Cut{kLittle}));
  return {};
}

Status Bench::refuses_writing() {
  HANDOVER_ASSIGN_CONTEXT(const auto state, migration().state(), "the state could not be read");
  const auto what = fmt::format("writing in {}", vfio::to_string(state));
  const Bytes some(16);
  auto done = migration().write(some);
  if (done) done = migration().set_state(state);
  HANDOVER_TRY(refused(done, what));
  return expect(state);
}

SavedState Bench::in_pieces_of_the_sample(Bytes bytes) const {
  SavedState state{std::move(bytes), {}};
  auto left = state.bytes.size();
  for (const auto piece : sample().pieces) {
    if (left == 0) break;
    state.pieces.push_back(std::min(piece, left));
    left -= state.pieces.back();
  }
  if (left > 0) state.pieces.push_back(left);
  return state;
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
