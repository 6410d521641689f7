#pragma once

#include <cstdint>
#include <string>

#include "handover/base/result.h"
#include "handover/stream/format.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"

/// Records on the main channel: their type byte, the headers of sections, the footers (qemu-stream 1.2, 1.3).
namespace handover::stream {

/// What stands before the body of a section.  PART and END carry the id alone.
struct SectionHeader {
  Record kind = Record::section_full;
  std::uint32_t id = 0;
  std::string name{};  ///< START and FULL, at most 255 bytes
  std::uint32_t instance = 0;
  std::uint32_t version = 0;

  /// For messages: `section 'ram' (id 1)`.
  std::string to_string() const;
};

/// True for START, PART, END and FULL.
bool is_section(Record record);
/// As people write it: `START`, `EOF`.
std::string_view record_name(Record record);

/// The type byte of the next record; an unknown one is a protocol error.
Result<Record> read_record(StreamReader& in);

/// Type byte and header; kind says which.
void write_section_header(StreamWriter& out, const SectionHeader& header);
/// What follows the type byte `kind`.  Name, instance and version stay empty for PART and END.
Result<SectionHeader> read_section_header(StreamReader& in, Record kind);

void write_section_footer(StreamWriter& out, std::uint32_t id);
/// Fails if the footer is missing or has another id; then the body was read wrongly or is damaged.
Status read_section_footer(StreamReader& in, const SectionHeader& header);

/// The mark after the last record.
void write_eof(StreamWriter& out);

}  // namespace handover::stream
