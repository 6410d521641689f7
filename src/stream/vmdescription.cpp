#include "handover/stream/vmdescription.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "handover/base/units.h"
#include "handover/stream/format.h"

namespace handover::stream {
namespace {

using Json = nlohmann::ordered_json;

/// nlohmann's dump() has no form with blanks on one line, which is how QEMU writes it.
void print(const Json& json, std::string& text) {
  if (!json.is_structured()) {
    text += json.dump(-1, ' ', false, Json::error_handler_t::replace);
    return;
  }
  text += json.is_object() ? '{' : '[';
  bool first = true;
  for (const auto& item : json.items()) {
    if (!first) text += ", ";
    first = false;
    if (json.is_object())
      text += Json(item.key()).dump(-1, ' ', false, Json::error_handler_t::replace) + ": ";
    print(item.value(), text);
  }
  text += json.is_object() ? '}' : ']';
}

Json device(const std::string& name, std::uint32_t instance) {
  return {{"name", name}, {"instance_id", instance}};
}

void append(std::string& devices, const Json& json) {
  if (!devices.empty()) devices += ", ";
  print(json, devices);
}

}  // namespace

VmdescriptionBuilder::VmdescriptionBuilder(const Configuration& configuration) {
  print(configuration.describe(), head_);
  head_ = fmt::format("{{\"configuration\": {}, \"page_size\": {}, \"devices\": [", head_,
                      configuration.page_size());
}

void VmdescriptionBuilder::add(const std::string& name, std::uint32_t instance,
                               const vmstate::Description& description, const void* object) {
  Json json = device(name, instance);
  json.update(description.describe(object));
  append(devices_, json);
}

void VmdescriptionBuilder::add_raw(const std::string& name, std::uint32_t instance, std::uint64_t size) {
  Json json = device(name, instance);
  json["size"] = size;
  json["fields"] = Json::array({{{"name", "data"}, {"size", size}, {"type", "buffer"}}});
  append(devices_, json);
}

std::string VmdescriptionBuilder::text() const {
  return head_ + devices_ + "]}";
}

void write_vmdescription(StreamWriter& out, std::string_view text) {
  out.u8(static_cast<std::uint8_t>(Record::vmdescription));
  out.be32(static_cast<std::uint32_t>(text.size()));
  out.text(text);
}

Result<std::optional<std::string>> read_vmdescription(StreamReader& in) {
  HANDOVER_ASSIGN(auto ended, in.at_end());
  if (ended) return std::nullopt;
  const std::uint64_t at = in.offset();
  HANDOVER_ASSIGN(auto type, in.u8());
  if (type != static_cast<std::uint8_t>(Record::vmdescription))
    return fail(Errc::protocol, "byte {:#04x} at offset {}, where the vmdescription or the end should be",
                type, at);
  HANDOVER_ASSIGN_CONTEXT(auto length, in.be32(), "in the vmdescription");
  if (length > kMaxVmdescription)
    return fail(Errc::limit, "the vmdescription at offset {} claims {} bytes, more than {}", at, length,
                kMaxVmdescription);
  std::string text;
  while (text.size() < length) {
    // Room grows with what really arrives, not with what was claimed.
    const std::size_t before = text.size();
    text.resize(before + std::min<std::size_t>(length - before, MiB));
    HANDOVER_TRY_CONTEXT(in.bytes(std::as_writable_bytes(std::span(text).subspan(before))),
                         "in the vmdescription");
  }
  return text;
}

}  // namespace handover::stream
