#include "cli/inspect_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace handover::cli {
namespace {

using namespace handover::stream;

/// Names come from foreign bytes and go to a terminal: only printable characters pass.
std::string printable(const std::string& text) {
  std::string result = text;
  std::ranges::replace_if(result, [](char one) { return one < ' ' || one > '~'; }, '?');
  return result;
}

std::string hex(std::span<const std::byte> bytes) {
  // Discard lists may be long, and the beginning says which block they are for.
  constexpr std::size_t kShown = 48;
  std::string text;
  for (std::byte one : bytes.first(std::min(bytes.size(), kShown)))
    text += fmt::format("{:02x}", std::to_integer<unsigned>(one));
  return bytes.size() > kShown ? text + fmt::format("... ({} bytes)", bytes.size()) : text;
}

void add_header(std::string& out, const StreamFacts& facts) {
  auto line = [&](std::string_view what, std::string value) {
    out += fmt::format("{:<14} {}\n", what, value);
  };
  line("machine", printable(facts.configuration.machine));
  if (!facts.configuration.capabilities.empty()) {
    std::string names;
    for (const auto& name : facts.configuration.capabilities)
      names += (names.empty() ? "" : ", ") + printable(name);
    line("capabilities", names);
  }
  if (facts.configuration.uuid) line("uuid", hex(*facts.configuration.uuid));
  if (facts.run_state) line("run state", printable(*facts.run_state));
  line("length", fmt::format("{} bytes", facts.length));
  if (!facts.file_sha256.empty()) line("sha256", facts.file_sha256);
  line("RAM", fmt::format("{} bytes = {} pages of {}", facts.ram_total, facts.ram_total / facts.page_size,
                          facts.page_size));
  line("page records",
       fmt::format("{} normal, {} zero, {} delta", facts.normal_pages, facts.zero_pages, facts.xbzrle_pages));
  if (facts.multifd_flushes > 0)
    line("multifd",
         fmt::format("{} flushes; pages on other channels are not in this file", facts.multifd_flushes));
  line("vmdescription",
       facts.vmdescription_length
           ? fmt::format("{} bytes, {} sections", *facts.vmdescription_length, facts.vmdescription_devices)
           : "none");
}

void add_blocks(std::string& out, const StreamFacts& facts) {
  if (facts.ram_blocks.empty()) return;
  out += fmt::format("\n{:<32} {:>14} {:>9} {:>9}\n", "RAM block", "bytes", "pages", "present");
  for (const auto& block : facts.ram_blocks) {
    const auto present = block.mapped ? block.mapped->pages_in_file : block.distinct_pages;
    out += fmt::format("{:<32} {:>14} {:>9} {:>9}", printable(block.name), block.length,
                       block.length / facts.page_size, present);
    if (block.guest_address) out += fmt::format("  at {:#x}", *block.guest_address);
    if (block.mapped)
      out +=
          fmt::format("  bitmap at {}, pages at {}", block.mapped->bitmap_offset, block.mapped->pages_offset);
    if (!block.sha256.empty()) out += "  " + block.sha256;
    out += '\n';
  }
}

void add_records(std::string& out, const StreamFacts& facts) {
  out += fmt::format("\n{:>12} {:<5} {:>5} {:<36} {:>4} {:>4} {:>12}\n", "offset", "kind", "id", "section",
                     "inst", "vers", "body bytes");
  bool guessed = false;
  for (const auto& section : facts.sections) {
    const SectionHeader& header = section.header;
    out += fmt::format("{:>12} {:<5} {:>5} {:<36} {:>4} {:>4} {:>12}{}\n", section.offset,
                       record_name(header.kind), header.id, printable(header.name), header.instance,
                       header.version, section.body_size, section.guessed ? " ?" : "");
    guessed = guessed || section.guessed;
  }
  if (guessed)
    out += "?: no description tells the length of this body; its end was guessed from the next footer\n";
}

void add_commands(std::string& out, const StreamFacts& facts) {
  if (facts.commands.empty()) return;
  out += fmt::format("\n{:>12} {:<22} {}\n", "offset", "command", "payload");
  for (const auto& command : facts.commands)
    out += fmt::format("{:>12} {:<22} {}\n", command.offset, command_name(command.record.command),
                       hex(command.record.payload));
}

void add_devices(std::string& out, const StreamFacts& facts) {
  for (const auto& device : facts.vfio) {
    out += fmt::format("\nVFIO device {}: {} bytes of device data{}{}\n", printable(device.name),
                       device.data_bytes, device.data_sha256.empty() ? "" : ", sha256 ", device.data_sha256);
    for (const auto& record : device.records)
      out += fmt::format("  {:<5} {}\n", record_name(record.kind), fmt::join(record.tags, " "));
  }
}

}  // namespace

std::string inspect_table(const StreamFacts& facts) {
  std::string out;
  add_header(out, facts);
  add_blocks(out, facts);
  add_records(out, facts);
  add_commands(out, facts);
  add_devices(out, facts);
  return out;
}

}  // namespace handover::cli
