#include <nlohmann/json.hpp>

#include "handover/stream/inspector.h"
#include "stream/inspect/sha256.h"

namespace handover::stream {
namespace {

using Json = nlohmann::ordered_json;

/// Foreign names may have any bytes; JSON text may not.
std::string clean(const std::string& text) {
  std::string result;
  for (char one : text) {
    const auto byte = static_cast<unsigned char>(one);
    result += byte >= 0x20 && byte < 0x7f ? std::string(1, one) : fmt::format("\\x{:02x}", byte);
  }
  return result;
}

Json subsections(const Configuration& configuration) {
  Json json = Json::object();
  if (configuration.page_bits) json["configuration/target-page-bits"] = *configuration.page_bits;
  for (const auto& name : configuration.capabilities)
    json["configuration/capabilities"].push_back(clean(name));
  if (configuration.uuid) json["configuration/uuid"] = hex(*configuration.uuid);
  return json;
}

Json block(const InspectedRamBlock& from, std::uint64_t page_size) {
  Json json = {{"name", clean(from.name)}, {"length", from.length}, {"pages", from.length / page_size}};
  if (from.guest_address) json["guest_address"] = *from.guest_address;
  if (from.host_page_size) json["host_page_size"] = *from.host_page_size;
  if (from.mapped) {
    json["header_version"] = from.mapped->version;
    json["page_size"] = from.mapped->page_size;
    json["bitmap_offset"] = from.mapped->bitmap_offset;
    json["pages_offset"] = from.mapped->pages_offset;
    json["pages_in_file"] = from.mapped->pages_in_file;
    if (from.mapped->page_indexes.size() == from.mapped->pages_in_file)
      json["page_indexes"] = from.mapped->page_indexes;
  } else {
    json["pages_sent_distinct"] = from.distinct_pages;
  }
  if (!from.sha256.empty()) json["sha256"] = from.sha256;
  return json;
}

void add_sections(Json& json, const StreamFacts& facts) {
  Json introduced = Json::array(), live = Json::array(), records = Json::array(), guessed = Json::array();
  for (const InspectedSection& section : facts.sections) {
    const SectionHeader& header = section.header;
    const std::string kind(record_name(header.kind));
    const std::string name = clean(header.name);
    if (header.kind == Record::section_start || header.kind == Record::section_full)
      introduced.push_back({{"kind", kind},
                            {"id", header.id},
                            {"name", name},
                            {"instance", header.instance},
                            {"version", header.version}});
    else
      live.push_back(Json::array({kind, name}));
    records.push_back({{"kind", kind},
                       {"id", header.id},
                       {"name", name},
                       {"offset", section.offset},
                       {"body_size", section.body_size}});
    if (section.guessed) guessed.push_back(name);
  }
  json["sections"] = std::move(introduced);
  json["live_records"] = std::move(live);
  json["section_records_total"] = facts.sections.size();
  json["records"] = std::move(records);
  if (!guessed.empty()) json["guessed_bodies"] = std::move(guessed);
}

Json devices(const StreamFacts& facts) {
  Json json = Json::object();
  for (const InspectedVfio& device : facts.vfio) {
    Json& one = json[clean(device.name)];
    one["main_channel"] = Json::array();
    for (const auto& record : device.records)
      one["main_channel"].push_back(Json::array({std::string(record_name(record.kind)), record.tags}));
    one["device_data_total"] = device.data_bytes;
    if (!device.data_sha256.empty()) one["device_data_sha256"] = device.data_sha256;
  }
  return json;
}

}  // namespace

Json to_json(const StreamFacts& facts) {
  Json json;
  if (facts.file_size) json["size"] = *facts.file_size;
  if (!facts.file_sha256.empty()) json["sha256"] = facts.file_sha256;
  json["machine"] = clean(facts.configuration.machine);
  json["config_subsections"] = subsections(facts.configuration);
  json["page_size"] = facts.page_size;
  json["ram_total_bytes"] = facts.ram_total;
  json["total_pages"] = facts.ram_total / facts.page_size;
  json["zero_pages"] = facts.zero_pages;
  json["normal_pages"] = facts.normal_pages;
  if (facts.xbzrle_pages > 0) json["xbzrle_pages"] = facts.xbzrle_pages;
  if (facts.multifd_flushes > 0) json["multifd_flushes"] = facts.multifd_flushes;
  json["commands"] = Json::array();
  for (const auto& command : facts.commands)
    json["commands"].push_back(
        Json::array({std::string(command_name(command.record.command)), hex(command.record.payload)}));
  add_sections(json, facts);
  json["vmdesc"] = nullptr;
  if (facts.vmdescription_length)
    json["vmdesc"] = {{"length", *facts.vmdescription_length}, {"devices", facts.vmdescription_devices}};
  json["ram_blocks"] = Json::array();
  for (const auto& one : facts.ram_blocks)
    json["ram_blocks"].push_back(block(one, facts.page_size));
  if (!facts.vfio.empty()) json["vfio"] = devices(facts);
  if (facts.run_state) json["run_state"] = clean(*facts.run_state);
  return json;
}

}  // namespace handover::stream
