// Devices that load what they should not, or do not load what they should.

#include <cerrno>

#include "unit/check/defects.h"

namespace handover::check {
namespace {

using Install = std::function<void(CheckedDevice&)>;

std::unexpected<Error> refusal() {
  return std::unexpected(Error(Errc::device, "refused by a defect", EIO));
}

/// What was written since the device went to RESUMING, and what a good state looks like: an accelerator that
/// nobody uses always gives the same.
struct Seen {
  Bytes good;
  Bytes written;
  bool good_is_whole = false;

  std::string kind() const {
    const auto size = good.size();
    if (written.empty()) return "empty";
    if (written == good) return "good";
    if (written.size() == size - 1) return "truncated.last-byte";
    if (written.size() == size / 2) return "truncated.half";
    if (written.size() > size) return "extended";
    if (written.size() != size) return "unknown";
    std::vector<std::size_t> changed;
    for (std::size_t i = 0; i < size; ++i)
      if (written[i] != good[i]) changed.push_back(i);
    if (changed.size() > 1) return "foreign";
    if (changed[0] == 0) return "corrupted.start";
    return changed[0] == size - 1 ? "corrupted.end" : "corrupted.middle";
  }
};

/// Keeps its eyes open, and lets `judge` decide what becomes of a request to leave RESUMING; empty: the
/// device decides.
std::shared_ptr<Seen> watch(CheckedDevice& checked,
                            std::function<std::optional<Status>(const std::string& kind)> judge) {
  auto& device = *checked.device;
  auto seen = std::make_shared<Seen>();
  device.hooks.read = [&device, seen](std::span<std::byte> to) -> Result<StateRead> {
    auto got = device.protocol().read(to);
    if (got && !seen->good_is_whole) {
      seen->good.insert(seen->good.end(), to.begin(), to.begin() + static_cast<std::ptrdiff_t>(got->bytes));
      seen->good_is_whole = got->kind == Kind::end;
    }
    return got;
  };
  device.hooks.write = [&device, seen](std::span<const std::byte> from) -> Status {
    seen->written.insert(seen->written.end(), from.begin(), from.end());
    return device.protocol().write(from);
  };
  device.hooks.set_state = [&device, seen, judge = std::move(judge)](DeviceState to) -> Status {
    if (to == DeviceState::resuming) seen->written.clear();
    if (device.now() == DeviceState::resuming && to == DeviceState::stop)
      if (auto judged = judge(seen->kind())) return *judged;
    return device.protocol().set_state(to);
  };
  return seen;
}

// The device stops, whatever it was given, and no write fails.
Install takes(std::string kind) {
  return [kind = std::move(kind)](CheckedDevice& checked) {
    auto& device = *checked.device;
    auto seen = watch(checked, [&device, kind](const std::string& given) -> std::optional<Status> {
      if (given != kind) return std::nullopt;
      if (auto reset = device.real.reset(); !reset) return reset;
      return device.protocol().set_state(DeviceState::stop);
    });
    device.hooks.write = [&device, seen](std::span<const std::byte> from) -> Status {
      seen->written.insert(seen->written.end(), from.begin(), from.end());
      auto written = device.protocol().write(from);
      return device.now() == DeviceState::resuming ? Status() : written;
    };
  };
}

// Refuses what it was given and claims to be stopped.
Install lies_about(std::string kind) {
  return [kind = std::move(kind)](CheckedDevice& checked) {
    auto& device = *checked.device;
    auto lying = std::make_shared<bool>(false);
    watch(checked, [&device, kind, lying](const std::string& given) -> std::optional<Status> {
      auto real = device.protocol().set_state(DeviceState::stop);
      *lying = !real && given == kind;
      return real;
    });
    device.hooks.state = [&device, lying]() -> Result<DeviceState> {
      if (std::exchange(*lying, false)) return DeviceState::stop;
      return device.protocol().state();
    };
  };
}

void takes_nothing(CheckedDevice& checked) {
  watch(checked, [](const std::string&) { return Status(refusal()); });
}

// Hands out a wrong byte where `wrongly` says so.
Install garbles(std::function<bool(DeviceState, std::size_t asked)> wrongly) {
  return [wrongly = std::move(wrongly)](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.read = [&device, wrongly](std::span<std::byte> to) -> Result<StateRead> {
      const auto state = device.now();
      auto got = device.protocol().read(to);
      if (got && got->bytes > 0 && wrongly(state, to.size())) to[0] = ~to[0];
      return got;
    };
  };
}

// A request that changes nothing costs a byte of what is being read.
void loses_a_byte_by_a_request(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto reading = std::make_shared<bool>(false), disturbed = std::make_shared<bool>(false);
  device.hooks.set_state = [&device, reading, disturbed](DeviceState to) -> Status {
    const auto before = device.now();
    auto set = device.protocol().set_state(to);
    *disturbed = *reading && before == DeviceState::stop_copy && device.now() == before;
    *reading = false;
    return set;
  };
  device.hooks.read = [&device, reading, disturbed](std::span<std::byte> to) -> Result<StateRead> {
    *reading = true;
    if (std::exchange(*disturbed, false)) HANDOVER_TRY(device.protocol().read(to.first(1)));
    return device.protocol().read(to);
  };
}

void garbles_every_third_save(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto saves = std::make_shared<int>(0);
  device.hooks.set_state = [&device, saves](DeviceState to) -> Status {
    if (to == DeviceState::stop_copy) ++*saves;
    return device.protocol().set_state(to);
  };
  garbles([saves](DeviceState, std::size_t) { return *saves == 3; })(checked);
}

// What was loaded can be run and yet not be saved before.
void forgets_what_was_loaded(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto fresh = std::make_shared<bool>(false);
  device.hooks.set_state = [&device, fresh](DeviceState to) -> Status {
    if (to == DeviceState::resuming) *fresh = true;
    if (to == DeviceState::running || to == DeviceState::running_p2p) *fresh = false;
    return device.protocol().set_state(to);
  };
  device.hooks.read = [&device, fresh](std::span<std::byte> to) -> Result<StateRead> {
    if (*fresh && device.now() == DeviceState::stop_copy) return StateRead{Kind::end, 0};
    return device.protocol().read(to);
  };
}

// A load that was given up spoils the one after it.
void keeps_a_given_up_load(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto spoilt = std::make_shared<bool>(false);
  auto seen = watch(checked, [spoilt](const std::string&) -> std::optional<Status> {
    if (std::exchange(*spoilt, false)) return Status(refusal());
    return std::nullopt;
  });
  device.hooks.reset = [&device, seen, spoilt]() -> Status {
    *spoilt = device.now() == DeviceState::resuming && !seen->written.empty();
    return device.real.reset();
  };
}

}  // namespace

std::vector<Defect> defects_of_loads() {
  std::vector<Defect> all;
  const auto add = [&](const std::string& id, std::string what, Install install) {
    all.push_back({.id = "load." + id, .what = std::move(what), .install = std::move(install)});
  };
  add("whole", "takes nothing at all", takes_nothing);
  all.back().broad = true;
  for (const std::size_t size : {std::size_t{1}, std::size_t{7}, std::size_t{4095}, 1 * MiB + 1})
    add(fmt::format("pieces.{}", size), "gives wrong bytes in these pieces",
        garbles([size](DeviceState state, std::size_t asked) {
          return state == DeviceState::stop_copy && asked == size;
        }));
  add("pre-copy", "gives wrong bytes in pre-copy", garbles([](DeviceState state, std::size_t asked) {
        return state == DeviceState::pre_copy && asked != 7;
      }));
  add("pre-copy.unread", "gives wrong bytes if little is read in pre-copy",
      garbles(
          [](DeviceState state, std::size_t asked) { return state == DeviceState::pre_copy && asked == 7; }));
  add("twice", "saves wrongly now and then", garbles_every_third_save);
  all.back().broad = true;
  add("undisturbed", "loses a byte by a request that changes nothing", loses_a_byte_by_a_request);
  add("round-trip", "has nothing to save after a load", forgets_what_was_loaded);
  add("given-up", "keeps what was given up", keeps_a_given_up_load);
  for (const char* kind : {"truncated.last-byte", "truncated.half", "empty", "foreign"})
    add(kind, "takes it in silence", takes(kind));
  for (const char* kind : {"truncated.last-byte", "truncated.half", "empty", "foreign", "extended",
                           "corrupted.start", "corrupted.middle", "corrupted.end"})
    add(kind, "refuses it and says that it is stopped", lies_about(kind));
  return all;
}

}  // namespace handover::check
