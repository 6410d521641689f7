#include "handover/stream/configuration.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "handover/stream/format.h"

namespace handover::stream {
namespace {

constexpr std::string_view kPageBits = "configuration/target-page-bits";
constexpr std::string_view kCapabilities = "configuration/capabilities";
constexpr std::string_view kUuid = "configuration/uuid";
constexpr std::uint32_t kSubsectionVersion = 1;
// Page sizes of the architectures that exist lie between 1 KiB and 64 KiB; the RAM flags need the low ten
// bits.
constexpr std::uint32_t kMinPageBits = 10;
constexpr std::uint32_t kMaxPageBits = 16;

void write_subsection(StreamWriter& out, std::string_view name) {
  out.u8(static_cast<std::uint8_t>(Record::subsection));
  out.str8(name);
  out.be32(kSubsectionVersion);
}

Status read_capabilities(StreamReader& in, Configuration& into) {
  HANDOVER_ASSIGN(auto count, in.be32());
  if (count > kMaxCapabilities)
    return fail(Errc::limit, "{} capabilities are more than {}", count, kMaxCapabilities);
  for (std::uint32_t i = 0; i < count; ++i) {
    HANDOVER_ASSIGN(auto name, in.str8());
    into.capabilities.push_back(std::move(name));
  }
  return {};
}

Status read_subsection(StreamReader& in, const std::string& name, Configuration& into) {
  HANDOVER_ASSIGN(auto version, in.be32());
  if (version != kSubsectionVersion) return fail(Errc::unsupported, "version {} is not known", version);
  if (name == kCapabilities) return read_capabilities(in, into);
  if (name == kPageBits) {
    HANDOVER_ASSIGN(into.page_bits, in.be32());
    if (*into.page_bits < kMinPageBits || *into.page_bits > kMaxPageBits)
      return fail(Errc::unsupported, "pages of 2^{} bytes", *into.page_bits);
    return {};
  }
  if (name == kUuid) return in.bytes(into.uuid.emplace());
  return fail(Errc::unsupported, "unknown subsection");
}

Result<Configuration> read_configuration(StreamReader& in) {
  Configuration configuration;
  HANDOVER_ASSIGN(auto length, in.be32());
  if (length > kMaxMachineName)
    return fail(Errc::limit, "a machine name of {} bytes is longer than {}", length, kMaxMachineName);
  configuration.machine.resize(length);
  HANDOVER_TRY(in.bytes(std::as_writable_bytes(std::span(configuration.machine))));
  std::vector<std::string> seen;
  for (;;) {
    HANDOVER_ASSIGN(auto next, in.peek(1));
    if (next.empty() || next[0] != std::byte{static_cast<std::uint8_t>(Record::subsection)})
      return configuration;
    const std::uint64_t at = in.offset();
    HANDOVER_TRY(in.skip(1));
    HANDOVER_ASSIGN(auto name, in.str8());
    if (std::ranges::find(seen, name) != seen.end())
      return fail(Errc::protocol, "subsection '{}' comes twice, at offset {}", name, at);
    HANDOVER_TRY_CONTEXT(read_subsection(in, name, configuration), "subsection '{}' at offset {}", name, at);
    seen.push_back(std::move(name));
  }
}

}  // namespace

bool Configuration::has_capability(std::string_view name) const {
  return std::ranges::find(capabilities, name) != capabilities.end();
}

nlohmann::ordered_json Configuration::describe() const {
  using Json = nlohmann::ordered_json;
  auto field = [](std::string_view name, std::string_view type, std::size_t size, std::size_t count = 1) {
    Json json = {{"name", name}};
    if (count > 1) json["array_len"] = count;
    json["type"] = type;
    json["size"] = size;
    return json;
  };
  auto description = [](std::string_view name, Json fields) {
    return Json{{"vmsd_name", name}, {"version", kSubsectionVersion}, {"fields", std::move(fields)}};
  };
  Json json = description("configuration",
                          Json::array({field("len", "uint32", 4), field("name", "buffer", machine.size())}));
  if (page_bits)
    json["subsections"].push_back(description(kPageBits, Json::array({field("page_bits", "uint32", 4)})));
  if (!capabilities.empty())
    json["subsections"].push_back(description(
        kCapabilities,
        Json::array({field("caps_count", "uint32", 4),
                     field("capabilities", "capability", 1 + capabilities[0].size(), capabilities.size())})));
  if (uuid)
    json["subsections"].push_back(
        description(kUuid, Json::array({field("uuid.data", "uint8", 1, uuid->size())})));
  return json;
}

void write_header(StreamWriter& out, const Configuration& configuration) {
  out.be32(kFileMagic);
  out.be32(kFileVersion);
  out.u8(static_cast<std::uint8_t>(Record::configuration));
  out.be32(static_cast<std::uint32_t>(configuration.machine.size()));
  out.text(configuration.machine);
  if (configuration.page_bits) {
    write_subsection(out, kPageBits);
    out.be32(*configuration.page_bits);
  }
  if (!configuration.capabilities.empty()) {
    write_subsection(out, kCapabilities);
    out.be32(static_cast<std::uint32_t>(configuration.capabilities.size()));
    for (const auto& name : configuration.capabilities)
      out.str8(name);
  }
  if (configuration.uuid) {
    write_subsection(out, kUuid);
    out.bytes(*configuration.uuid);
  }
}

Result<Configuration> read_header(StreamReader& in) {
  HANDOVER_ASSIGN_CONTEXT(auto magic, in.be32(), "reading the header");
  if (magic != kFileMagic)
    return fail(Errc::protocol, "this is no migration stream: it begins with {:#010x}, not with QEVM", magic);
  HANDOVER_ASSIGN_CONTEXT(auto version, in.be32(), "reading the header");
  if (version != kFileVersion)
    return fail(Errc::unsupported, "stream version {} is not supported, only version {} is", version,
                kFileVersion);
  HANDOVER_ASSIGN_CONTEXT(auto type, in.u8(), "reading the header");
  if (type != static_cast<std::uint8_t>(Record::configuration))
    return fail(Errc::protocol,
                "no configuration record at offset 8 but byte {:#04x}; was the stream written with "
                "send-configuration=off?",
                type);
  auto configuration = read_configuration(in);
  if (!configuration)
    return std::unexpected(std::move(configuration).error().with_context("configuration record at offset 8"));
  return configuration;
}

}  // namespace handover::stream
