#include "handover/migration/parameters.h"

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>

#include "handover/base/units.h"

namespace handover {
namespace {

using nlohmann::json;

struct ParameterField {
  std::string_view name;
  std::variant<std::uint64_t Parameters::*, bool Parameters::*> member;
  std::uint64_t min = 0;
  std::uint64_t max = 0;
  std::string_view unit = "";
};

// Names, units and ranges are QEMU's, but for max-queued-buffers-size.
constexpr std::uint64_t kAnySize = std::numeric_limits<std::uint64_t>::max();
constexpr std::array kParameters = {
    ParameterField{"max-bandwidth", &Parameters::max_bandwidth, 0, kAnySize, " bytes a second"},
    ParameterField{"avail-switchover-bandwidth", &Parameters::avail_switchover_bandwidth, 0, kAnySize,
                   " bytes a second"},
    ParameterField{"downtime-limit", &Parameters::downtime_limit_ms, 0, 2'000'000, " milliseconds"},
    ParameterField{"multifd-channels", &Parameters::multifd_channels, 1, 255},
    ParameterField{"direct-io", &Parameters::direct_io},
    // One buffer of a device must fit.
    ParameterField{"max-queued-buffers-size", &Parameters::max_queued_buffers_size, 2 * MiB, kAnySize,
                   " bytes"},
};

struct CapabilityField {
  std::string_view name;
  bool Capabilities::* member;
};

constexpr std::array kCapabilities = {
    CapabilityField{"events", &Capabilities::events},
    CapabilityField{"return-path", &Capabilities::return_path},
    CapabilityField{"pause-before-switchover", &Capabilities::pause_before_switchover},
    CapabilityField{"multifd", &Capabilities::multifd},
    CapabilityField{"switchover-ack", &Capabilities::switchover_ack},
    CapabilityField{"mapped-ram", &Capabilities::mapped_ram},
};

/// QEMU's, and why they cannot be had here.
struct Refused {
  std::string_view name;
  std::string_view reason;
};
constexpr std::array kRefused = {
    Refused{
        "postcopy-ram",
        "VFIO devices write guest memory by DMA, which cannot wait for a page that is still at the source"},
    Refused{
        "background-snapshot",
        "it saves memory while the machine runs on, and VFIO devices would write into what is being saved"},
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
  if (const auto* flag = std::get_if<bool Parameters::*>(&field->member)) {
    if (!value.is_boolean())
      return fail(Errc::invalid_argument, "'{}' must be true or false, not {}", name, value.type_name());
    parameters.*(*flag) = value.get<bool>();
    return {};
  }
  if (!value.is_number_integer())
    return fail(Errc::invalid_argument, "'{}' must be a whole number{}{}{}, not {}", name,
                field->unit.empty() ? "" : " (", field->unit.substr(field->unit.empty() ? 0 : 1),
                field->unit.empty() ? "" : ")", value.type_name());
  const bool negative = !value.is_number_unsigned() && value.get<std::int64_t>() < 0;
  if (negative || value.get<std::uint64_t>() < field->min || value.get<std::uint64_t>() > field->max)
    return fail(Errc::invalid_argument, "'{}' must be from {} to {}{}", name, field->min, field->max,
                field->unit);
  parameters.*std::get<std::uint64_t Parameters::*>(field->member) = value.get<std::uint64_t>();
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
  if (const auto* refused = find_field(kRefused, name->get_ref<const std::string&>()))
    return state->get<bool>() ? Status(fail(Errc::unsupported, "'{}' is not possible with VFIO devices: {}",
                                            refused->name, refused->reason))
                              : Status{};
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
    std::visit([&](auto member) { object[std::string(field.name)] = parameters.*member; }, field.member);
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
  if (changed.switchover_ack && !changed.return_path)
    return fail(Errc::invalid_argument,
                "'switchover-ack' needs 'return-path': the destination acknowledges over it");
  capabilities = changed;
  return {};
}

}  // namespace handover
