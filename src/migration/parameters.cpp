#include "handover/migration/parameters.h"

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace handover {
namespace {

using nlohmann::json;

struct ParameterField {
  std::string_view name;
  std::uint64_t Parameters::* member;
  std::uint64_t max;  // the least is 0 for all of them
  std::string_view unit;
};

// Names, units and ranges are QEMU's.
constexpr std::uint64_t kAnySize = std::numeric_limits<std::uint64_t>::max();
constexpr std::array kParameters = {
    ParameterField{"max-bandwidth", &Parameters::max_bandwidth, kAnySize, "bytes a second"},
    ParameterField{"avail-switchover-bandwidth", &Parameters::avail_switchover_bandwidth, kAnySize,
                   "bytes a second"},
    ParameterField{"downtime-limit", &Parameters::downtime_limit_ms, 2'000'000, "milliseconds"},
};

struct CapabilityField {
  std::string_view name;
  bool Capabilities::* member;
};

constexpr std::array kCapabilities = {
    CapabilityField{"events", &Capabilities::events},
    CapabilityField{"return-path", &Capabilities::return_path},
    CapabilityField{"pause-before-switchover", &Capabilities::pause_before_switchover},
};

template <class Table>
auto find_field(const Table& table, std::string_view name) -> const typename Table::value_type* {
  for (const auto& field : table)
    if (field.name == name) return &field;
  return nullptr;
}

template <class Table>
std::string known_names(const Table& table) {
  std::string names;
  for (const auto& field : table) {
    if (!names.empty()) names += ", ";
    names += field.name;
  }
  return names;
}

// Names come from outside; what is quoted back stays short.
std::string shortened(std::string_view name) {
  constexpr std::size_t kMost = 80;
  return name.size() <= kMost ? std::string(name) : std::string(name.substr(0, kMost)) + "...";
}

Status set_parameter(Parameters& parameters, const std::string& name, const json& value) {
  const auto* field = find_field(kParameters, name);
  if (!field)
    return fail(Errc::invalid_argument, "unknown migration parameter '{}'; known are {}", shortened(name),
                known_names(kParameters));
  if (!value.is_number_integer())
    return fail(Errc::invalid_argument, "'{}' must be a whole number ({}), not {}", name, field->unit,
                value.type_name());
  const bool negative = !value.is_number_unsigned() && value.get<std::int64_t>() < 0;
  if (negative || value.get<std::uint64_t>() > field->max)
    return fail(Errc::invalid_argument, "'{}' must be from 0 to {} {}", name, field->max, field->unit);
  parameters.*(field->member) = value.get<std::uint64_t>();
  return {};
}

Status set_capability(Capabilities& capabilities, const json& entry) {
  constexpr auto kShape = R"({"capability": name, "state": true or false})";
  if (!entry.is_object()) return fail(Errc::invalid_argument, "a capability is set by {}", kShape);
  const auto name = entry.find("capability");
  const auto state = entry.find("state");
  if (name == entry.end() || !name->is_string() || state == entry.end() || !state->is_boolean() ||
      entry.size() != 2)
    return fail(Errc::invalid_argument, "a capability is set by {}", kShape);
  const auto* field = find_field(kCapabilities, name->get_ref<const std::string&>());
  if (!field)
    return fail(Errc::invalid_argument, "unknown migration capability '{}'; known are {}",
                shortened(name->get_ref<const std::string&>()), known_names(kCapabilities));
  capabilities.*(field->member) = state->get<bool>();
  return {};
}

}  // namespace

json to_json(const Parameters& parameters) {
  auto object = json::object();
  for (const auto& field : kParameters)
    object[std::string(field.name)] = parameters.*(field.member);
  return object;
}

Status apply_changes(Parameters& parameters, const json& changes) {
  if (!changes.is_object())
    return fail(Errc::invalid_argument, "migration parameters come as an object, not {}",
                changes.type_name());
  auto changed = parameters;
  for (const auto& [name, value] : changes.items())
    HANDOVER_TRY(set_parameter(changed, name, value));
  parameters = changed;
  return {};
}

json to_json(const Capabilities& capabilities) {
  auto list = json::array();
  for (const auto& field : kCapabilities)
    list.push_back({{"capability", std::string(field.name)}, {"state", capabilities.*(field.member)}});
  return list;
}

Status apply_changes(Capabilities& capabilities, const json& changes) {
  if (!changes.is_array())
    return fail(Errc::invalid_argument, "migration capabilities come as a list, not {}", changes.type_name());
  auto changed = capabilities;
  for (const auto& entry : changes)
    HANDOVER_TRY(set_capability(changed, entry));
  capabilities = changed;
  return {};
}

}  // namespace handover
