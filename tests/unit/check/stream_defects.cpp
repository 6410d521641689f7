// Devices whose stream, or what they say about it, is wrong.

#include <cerrno>

#include "unit/check/defects.h"

namespace handover::check {
namespace {

using Install = std::function<void(CheckedDevice&)>;

std::unexpected<Error> refusal() {
  return std::unexpected(Error(Errc::device, "refused by a defect", EIO));
}

// What the reads of one state remember; the next state begins anew.
template <class Memory>
std::shared_ptr<Memory> until_the_next_state(DefectiveDevice& device) {
  auto memory = std::make_shared<Memory>();
  device.hooks.set_state = [&device, memory](DeviceState to) -> Status {
    *memory = {};
    return device.protocol().set_state(to);
  };
  return memory;
}

void goes_on_after_the_end(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto ended = until_the_next_state<bool>(device);
  device.hooks.read = [&device, ended](std::span<std::byte> to) -> Result<StateRead> {
    if (*ended) return StateRead{Kind::data, 1};
    auto got = device.protocol().read(to);
    *ended = got && got->kind == Kind::end;
    return got;
  };
}

void ends_never(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.read = [&device](std::span<std::byte> to) -> Result<StateRead> {
    if (device.now() != DeviceState::stop_copy) return device.protocol().read(to);
    return StateRead{Kind::data, to.size()};
  };
}

void gives_more_than_was_asked_for(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.read = [&device](std::span<std::byte> to) -> Result<StateRead> {
    auto got = device.protocol().read(to);
    if (got && device.now() == DeviceState::stop_copy) got->bytes = to.size() + 1;
    return got;
  };
}

void pauses_in_stop_copy(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.read = [&device](std::span<std::byte> to) -> Result<StateRead> {
    auto got = device.protocol().read(to);
    if (got && got->kind == Kind::end) got->kind = Kind::nothing_now;
    return got;
  };
}

void pauses_once(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto paused = until_the_next_state<bool>(device);
  device.hooks.read = [&device, paused](std::span<std::byte> to) -> Result<StateRead> {
    if (*paused) return refusal();
    auto got = device.protocol().read(to);
    *paused = got && got->kind == Kind::nothing_now;
    return got;
  };
}

// Stop-copy after a pre-copy in which little was read.
void drops_unread_data(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto left = std::make_shared<bool>(false);
  device.hooks.set_state = [&device, left](DeviceState to) -> Status {
    if (!vfio::is_saving(to)) *left = false;
    return device.protocol().set_state(to);
  };
  device.hooks.read = [&device, left](std::span<std::byte> to) -> Result<StateRead> {
    const auto state = device.now();
    if (state == DeviceState::stop_copy && *left) return refusal();
    *left = state == DeviceState::pre_copy && to.size() == 7;
    return device.protocol().read(to);
  };
}

Install cannot_read_pieces_of(std::size_t size) {
  return [size](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.read = [&device, size](std::span<std::byte> to) -> Result<StateRead> {
      if (to.size() == size && device.now() == DeviceState::stop_copy) return refusal();
      return device.protocol().read(to);
    };
  };
}

// The state that the kit keeps is the first.
void can_be_saved_twice_in_all(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.set_state = [&device, saves = 0](DeviceState to) mutable -> Status {
    if (to == DeviceState::stop_copy && ++saves > 2) return refusal();
    return device.protocol().set_state(to);
  };
}

// A session that was left before its end takes all later ones with it.
Install dies_of_an_abort(DeviceState in) {
  return [in](CheckedDevice& checked) {
    auto& device = *checked.device;
    struct Memory {
      bool ended = false, broken = false;
    };
    auto memory = std::make_shared<Memory>();
    device.hooks.set_state = [&device, memory, in](DeviceState to) -> Status {
      if (device.now() == in && !vfio::is_saving(to) && !memory->ended) memory->broken = true;
      memory->ended = false;
      return device.protocol().set_state(to);
    };
    device.hooks.read = [&device, memory](std::span<std::byte> to) -> Result<StateRead> {
      if (memory->broken) return refusal();
      auto got = device.protocol().read(to);
      memory->ended = got && got->kind == Kind::end;
      return got;
    };
  };
}

void estimates_only_while_running(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.stop_copy_size = [&device]() -> Result<std::optional<std::uint64_t>> {
    if (device.now() == DeviceState::stop) return refusal();
    return device.protocol().stop_copy_size();
  };
}

Install says_initial_bytes(std::function<std::uint64_t(std::uint64_t)> said) {
  return [said = std::move(said)](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.precopy_info = [&device, said]() -> Result<std::optional<vfio::PrecopyInfo>> {
      auto info = device.protocol().precopy_info();
      if (info && *info) (*info)->initial_bytes = said((*info)->initial_bytes);
      return info;
    };
  };
}

}  // namespace

std::vector<Defect> defects_of_streams() {
  std::vector<Defect> all;
  const auto add = [&](std::string id, std::string what, Install install,
                       std::vector<std::string> also = {}) {
    all.push_back(
        {.id = std::move(id), .what = std::move(what), .install = std::move(install), .also = also});
  };
  const auto add_broad = [&](std::string id, std::string what, Install install) {
    add(std::move(id), std::move(what), std::move(install));
    all.back().broad = true;
  };
  add("stream.end", "gives more after the end", goes_on_after_the_end);
  add_broad("stream.end", "never comes to an end", ends_never);
  add_broad("stream.end", "gives more bytes than fit", gives_more_than_was_asked_for);
  add_broad("stream.end", "pauses in stop-copy", pauses_in_stop_copy);
  add("stream.pre-copy.pause", "cannot be read after a pause", pauses_once);
  add("stream.pre-copy.unread", "cannot go on with unread data", drops_unread_data, {"load.pre-copy.unread"});
  for (const std::size_t size : {std::size_t{1}, std::size_t{7}, std::size_t{4095}, 1 * MiB + 1})
    add(fmt::format("stream.pieces.{}", size), "cannot be read in these pieces", cannot_read_pieces_of(size),
        {fmt::format("load.pieces.{}", size)});
  add_broad("stream.twice", "can be saved a limited number of times", can_be_saved_twice_in_all);
  add_broad("stream.abort.stop-copy", "dies of it", dies_of_an_abort(DeviceState::stop_copy));
  add_broad("stream.abort.pre-copy", "dies of it", dies_of_an_abort(DeviceState::pre_copy));
  add("size.estimate", "makes no estimate in stop", estimates_only_while_running);
  add("size.initial", "has the same initial bytes for ever", says_initial_bytes([](auto) { return 100; }));
  add("size.initial", "counts initial bytes upwards",
      says_initial_bytes([](std::uint64_t left) { return 1000 - left; }));
  return all;
}

}  // namespace handover::check
