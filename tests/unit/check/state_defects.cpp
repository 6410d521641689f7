// Devices that are wrong about one state, one pair of states or one number.

#include <cerrno>

#include "unit/check/defects.h"

namespace handover::check {
namespace {

using Install = std::function<void(CheckedDevice&)>;

std::vector<std::string> words_of(const std::string& id) {
  std::vector<std::string> words(1);
  for (const char c : id)
    if (c == '.')
      words.emplace_back();
    else
      words.back() += c;
  return words;
}

DeviceState state_of(const std::string& name) {
  for (std::uint32_t number = 0; number < vfio::kDeviceStateCount; ++number)
    if (vfio::to_string(static_cast<DeviceState>(number)) == name) return static_cast<DeviceState>(number);
  throw std::runtime_error("no state " + name);
}

std::unexpected<Error> refusal() {
  return std::unexpected(Error(Errc::device, "refused by a defect", EINVAL));
}

/// Says yes to requests and does nothing.
Install grants_for_nothing(DeviceState from, std::function<bool(std::uint32_t)> wanted) {
  return [=](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.set_state = [=, &device](DeviceState to) -> Status {
      if (wanted(static_cast<std::uint32_t>(to)) && device.now() == from) return {};
      return device.protocol().set_state(to);
    };
  };
}

Install refuses_no_op(DeviceState state) {
  return [=](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.set_state = [=, &device](DeviceState to) -> Status {
      if (to == state && device.now() == state) return refusal();
      return device.protocol().set_state(to);
    };
  };
}

Install reads_in(DeviceState state) {
  return [=](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.read = [=, &device](std::span<std::byte> to) -> Result<StateRead> {
      if (device.now() == state) return StateRead{Kind::end, 1};
      return device.protocol().read(to);
    };
  };
}

Install writes_in(DeviceState state) {
  return [=](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.write = [=, &device](std::span<const std::byte> from) -> Status {
      if (device.now() == state) return {};
      return device.protocol().write(from);
    };
  };
}

Install informs_in(DeviceState state, bool wrongly_given) {
  return [=](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.precopy_info = [=, &device]() -> Result<std::optional<vfio::PrecopyInfo>> {
      if (device.now() != state) return device.protocol().precopy_info();
      if (wrongly_given) return vfio::PrecopyInfo{};
      return refusal();
    };
  };
}

Install resets_to_stop(DeviceState state) {
  return [=](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.reset = [=, &device]() -> Status {
      const auto before = device.now();
      HANDOVER_TRY(device.real.reset());
      if (before == state) return device.protocol().set_state(DeviceState::stop);
      return {};
    };
  };
}

// Fewest features with the state and at least one other state missing.
std::uint64_t poorest_with(DeviceState state) {
  for (const std::uint64_t features : {1, 3, 5})
    if (vfio::state_exists(state, features)) return features;
  throw std::runtime_error("whoever has the state has them all");
}

constexpr bool in_pre_copy(DeviceState state) {
  return state == DeviceState::pre_copy || state == DeviceState::pre_copy_p2p;
}

Defect arc(const std::string& id, DeviceState from, DeviceState to) {
  Defect made{id, "grants it and stays", grants_for_nothing(from, [to](std::uint32_t asked) {
                return asked == static_cast<std::uint32_t>(to);
              })};
  // Single arcs, and ways back to RUNNING, are steps of other checks.
  made.broad = vfio::find_arc(from, to, 7) != nullptr || to == DeviceState::running;
  return made;
}

Defect illegal(const std::string& id, DeviceState from, const std::string& what) {
  if (what == "number")
    return {id, "knows states that do not exist",
            grants_for_nothing(from, [](std::uint32_t asked) { return asked >= vfio::kDeviceStateCount; })};
  if (what == "lacking") {
    const auto features = poorest_with(from);
    return {id, "grants a state that it lacks",
            grants_for_nothing(from,
                               [features](std::uint32_t asked) {
                                 return asked < vfio::kDeviceStateCount && asked != 0 &&
                                        !vfio::state_exists(static_cast<DeviceState>(asked), features);
                               }),
            features};
  }
  const auto to = static_cast<std::uint32_t>(state_of(what));
  return {id, "grants it", grants_for_nothing(from, [to](std::uint32_t asked) { return asked == to; })};
}

}  // namespace

std::vector<Defect> defects_of_states() {
  std::vector<Defect> all;
  for (const auto& check : catalogue()) {
    const auto words = words_of(check.id);
    if (words[0] == "arc") all.push_back(arc(check.id, state_of(words[1]), state_of(words[2])));
    if (words[0] == "illegal") all.push_back(illegal(check.id, state_of(words[1]), words[2]));
    if (words[0] == "same") all.push_back({check.id, "refuses it", refuses_no_op(state_of(words[1]))});
    if (check.id.starts_with("stream.read."))
      all.push_back({check.id, "gives state there", reads_in(state_of(words[2]))});
    if (check.id.starts_with("stream.write."))
      all.push_back({check.id, "takes state there", writes_in(state_of(words[2]))});
    if (words[0] == "info") {
      const auto state = state_of(words[1]);
      Defect made{check.id, "is wrong there", informs_in(state, !in_pre_copy(state))};
      // Everything else of this kind begins in pre-copy.
      if (state == DeviceState::pre_copy) made.also = {"info."};
      all.push_back(std::move(made));
    }
    if (words[0] == "reset") {
      all.push_back({check.id, "is stopped after it", resets_to_stop(state_of(words[1]))});
    }
  }
  for (auto& defect : all)
    defect.own_group = true;
  all.push_back({"features.combination", "has a feature that does not exist",
                 [](CheckedDevice& checked) { checked.device->hooks.features = [] { return 0xf; }; }});
  return all;
}

}  // namespace handover::check
