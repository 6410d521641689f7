#include "handover/stream/section.h"

namespace handover::stream {

std::string SectionHeader::to_string() const {
  return name.empty() ? fmt::format("section {}", id) : fmt::format("section '{}' (id {})", name, id);
}

bool is_section(Record record) {
  return record == Record::section_start || record == Record::section_part || record == Record::section_end ||
         record == Record::section_full;
}

std::string_view record_name(Record record) {
  switch (record) {
    case Record::eof:
      return "EOF";
    case Record::section_start:
      return "START";
    case Record::section_part:
      return "PART";
    case Record::section_end:
      return "END";
    case Record::section_full:
      return "FULL";
    case Record::subsection:
      return "SUBSECTION";
    case Record::vmdescription:
      return "VMDESCRIPTION";
    case Record::configuration:
      return "CONFIGURATION";
    case Record::command:
      return "COMMAND";
    case Record::section_footer:
      return "FOOTER";
  }
  return "unknown";
}

Result<Record> read_record(StreamReader& in) {
  const std::uint64_t at = in.offset();
  HANDOVER_ASSIGN_CONTEXT(auto type, in.u8(), "reading the next record");
  const auto record = static_cast<Record>(type);
  if (record == Record::eof || record == Record::command || is_section(record)) return record;
  return fail(Errc::protocol, "no record begins with byte {:#04x}, at offset {}", type, at);
}

void write_section_header(StreamWriter& out, const SectionHeader& header) {
  out.u8(static_cast<std::uint8_t>(header.kind));
  out.be32(header.id);
  if (header.kind == Record::section_part || header.kind == Record::section_end) return;
  out.str8(header.name);
  out.be32(header.instance);
  out.be32(header.version);
}

Result<SectionHeader> read_section_header(StreamReader& in, Record kind) {
  SectionHeader header;
  header.kind = kind;
  HANDOVER_ASSIGN_CONTEXT(header.id, in.be32(), "in a section header");
  if (kind == Record::section_part || kind == Record::section_end) return header;
  HANDOVER_ASSIGN_CONTEXT(header.name, in.str8(), "in the header of {}", header.to_string());
  HANDOVER_ASSIGN_CONTEXT(header.instance, in.be32(), "in the header of {}", header.to_string());
  HANDOVER_ASSIGN_CONTEXT(header.version, in.be32(), "in the header of {}", header.to_string());
  return header;
}

void write_section_footer(StreamWriter& out, std::uint32_t id) {
  out.u8(static_cast<std::uint8_t>(Record::section_footer));
  out.be32(id);
}

Status read_section_footer(StreamReader& in, const SectionHeader& header) {
  const std::uint64_t at = in.offset();
  HANDOVER_ASSIGN_CONTEXT(auto type, in.u8(), "in the footer of {}", header.to_string());
  if (type != static_cast<std::uint8_t>(Record::section_footer))
    return fail(Errc::protocol, "{} has byte {:#04x} at offset {}, where its footer should be",
                header.to_string(), type, at);
  HANDOVER_ASSIGN_CONTEXT(auto id, in.be32(), "in the footer of {}", header.to_string());
  if (id != header.id)
    return fail(Errc::protocol, "{} ends at offset {} with the footer of section {}", header.to_string(), at,
                id);
  return {};
}

void write_eof(StreamWriter& out) {
  out.u8(static_cast<std::uint8_t>(Record::eof));
}

}  // namespace handover::stream
