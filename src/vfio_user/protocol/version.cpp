#include "handover/vfio_user/protocol_version.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace handover::vfio_user::protocol {
namespace {

using Json = nlohmann::json;

Result<std::uint64_t> number_of(const Json& value, const char* key) {
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    constexpr double kTwoTo64 = 18446744073709551616.0;
    if (number >= 0 && number < kTwoTo64 && std::trunc(number) == number)
      return static_cast<std::uint64_t>(number);
  }
  return fail(Errc::protocol, "version JSON: {} is no whole number from 0 up", key);
}

Result<bool> bool_of(const Json& value, const char* key) {
  if (!value.is_boolean()) return fail(Errc::protocol, "version JSON: {} is neither true nor false", key);
  return value.get<bool>();
}

// The member of an object, or null; every member that must be an object is checked to be one.
Result<const Json*> object_in(const Json& parent, const char* key) {
  const auto found = parent.find(key);
  if (found == parent.end()) return nullptr;
  if (!found->is_object()) return fail(Errc::protocol, "version JSON: {} is no object", key);
  return &*found;
}

template <class Target>
Status take_number(const Json& parent, const char* key, Target& target) {
  const auto found = parent.find(key);
  if (found == parent.end()) return {};
  HANDOVER_ASSIGN(target, number_of(*found, key));
  return {};
}

Result<Json> parse(std::string_view text) {
  bool too_deep = false;
  const auto watch_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMaxVersionDepth;
    return !too_deep;
  };
  // The parser would take a NUL for the end of the text.
  if (text.find('\0') != text.npos) return fail(Errc::protocol, "version JSON has a NUL inside");
  auto json = Json::parse(text, watch_depth, /*allow_exceptions=*/false);
  if (too_deep) return fail(Errc::limit, "version JSON nests deeper than {}", kMaxVersionDepth);
  if (json.is_discarded()) return fail(Errc::protocol, "version data is no JSON");
  if (!json.is_object()) return fail(Errc::protocol, "version JSON is no object");
  return json;
}

}  // namespace

Result<Version> Version::decode(std::span<const std::byte> payload) {
  NativeReader in(payload);
  Version version;
  HANDOVER_ASSIGN(version.major, in.u16());
  HANDOVER_ASSIGN(version.minor, in.u16());
  const auto text = in.rest();
  if (text.empty()) return version;
  if (text.size() > kMaxVersionText)
    return fail(Errc::limit, "version JSON of {} bytes; {} are accepted", text.size(), kMaxVersionText);
  if (text.back() != std::byte{0}) return fail(Errc::protocol, "version JSON does not end with a NUL");
  version.text.assign(reinterpret_cast<const char*>(text.data()), text.size() - 1);
  return version;
}

void Version::encode(NativeWriter& out) const {
  out.u16(major);
  out.u16(minor);
  if (text.empty()) return;
  out.text(text);
  out.u8(0);
}

Result<Capabilities> parse_capabilities(std::string_view text) {
  Capabilities capabilities;
  if (text.empty()) return capabilities;
  if (text.size() > kMaxVersionText)
    return fail(Errc::limit, "version JSON of {} bytes; {} are accepted", text.size(), kMaxVersionText);
  HANDOVER_ASSIGN(const auto json, parse(text));
  HANDOVER_ASSIGN(const auto* keys, object_in(json, "capabilities"));
  if (!keys) return capabilities;
  HANDOVER_TRY(take_number(*keys, "max_msg_fds", capabilities.max_msg_fds));
  HANDOVER_TRY(take_number(*keys, "max_data_xfer_size", capabilities.max_data_xfer_size));
  HANDOVER_TRY(take_number(*keys, "max_dma_maps", capabilities.max_dma_maps));
  HANDOVER_TRY(take_number(*keys, "pgsizes", capabilities.pgsizes));
  HANDOVER_ASSIGN(const auto* twin, object_in(*keys, "twin_socket"));
  if (twin) {
    auto& twin_socket = capabilities.twin_socket.emplace();
    if (const auto supported = twin->find("supported"); supported != twin->end()) {
      HANDOVER_ASSIGN(twin_socket.supported, bool_of(*supported, "twin_socket.supported"));
    }
    HANDOVER_TRY(take_number(*twin, "fd_index", twin_socket.fd_index));
  }
  if (const auto multiple = keys->find("write_multiple"); multiple != keys->end()) {
    HANDOVER_ASSIGN(capabilities.write_multiple, bool_of(*multiple, "write_multiple"));
  }
  HANDOVER_ASSIGN(const auto* migration, object_in(*keys, "migration"));
  if (migration) {
    auto& pages = capabilities.migration.emplace();
    HANDOVER_TRY(take_number(*migration, "pgsize", pages.pgsize));
    HANDOVER_TRY(take_number(*migration, "max_bitmap_size", pages.max_bitmap_size));
  }
  HANDOVER_ASSIGN(const auto* ours, object_in(*keys, "handover"));
  capabilities.handover = ours != nullptr;
  return capabilities;
}

std::string to_json(const Capabilities& capabilities) {
  // Ordered, so that the text is the same everywhere.
  nlohmann::ordered_json keys;
  keys["max_msg_fds"] = capabilities.max_msg_fds;
  keys["max_data_xfer_size"] = capabilities.max_data_xfer_size;
  if (capabilities.max_dma_maps != Capabilities::kDefaultDmaMaps)
    keys["max_dma_maps"] = capabilities.max_dma_maps;
  if (capabilities.pgsizes != Capabilities::kDefaultPageSizes) keys["pgsizes"] = capabilities.pgsizes;
  if (capabilities.write_multiple) keys["write_multiple"] = true;
  if (capabilities.migration) {
    auto& pages = keys["migration"] = nlohmann::ordered_json::object();
    if (capabilities.migration->pgsize) pages["pgsize"] = *capabilities.migration->pgsize;
    if (capabilities.migration->max_bitmap_size)
      pages["max_bitmap_size"] = *capabilities.migration->max_bitmap_size;
  }
  if (capabilities.twin_socket) {
    auto& twin = keys["twin_socket"] = nlohmann::ordered_json::object();
    twin["supported"] = capabilities.twin_socket->supported;
    if (capabilities.twin_socket->fd_index) twin["fd_index"] = *capabilities.twin_socket->fd_index;
  }
  if (capabilities.handover) keys["handover"] = nlohmann::ordered_json::object();
  nlohmann::ordered_json json;
  json["capabilities"] = std::move(keys);
  return json.dump();
}

}  // namespace handover::vfio_user::protocol
