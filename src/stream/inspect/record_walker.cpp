#include "stream/inspect/record_walker.h"

#include <algorithm>

#include "handover/base/byte_reader.h"
#include "handover/base/units.h"
#include "handover/stream/vmdescription.h"
#include "stream/inspect/footer_search.h"

namespace handover::stream {
namespace {

/// Sections whose layout is known here (qemu-stream 2.9), with the bytes of their fields; subsections may
/// follow.
struct KnownSection {
  std::string_view name;
  std::uint32_t version;
  std::uint64_t size;
};
constexpr std::string_view kGlobalState = "globalstate";
constexpr KnownSection kKnownSections[] = {{"timer", 2, 24}, {"cpu_common", 1, 8}, {kGlobalState, 1, 104}};
constexpr std::uint64_t kRunStateBytes = 32;

const KnownSection* find_known(const SectionHeader& header) {
  const auto* found = std::ranges::find_if(kKnownSections, [&](const KnownSection& one) {
    return one.name == header.name && one.version == header.version;
  });
  return found == std::end(kKnownSections) ? nullptr : found;
}

}  // namespace

RecordWalker::RecordWalker(StreamReader& in, const InspectOptions& options, StreamFacts& facts,
                           std::optional<DescribedSections> described, std::uint64_t base)
    : in_(in),
      facts_(facts),
      described_(std::move(described)),
      ram_(in, options, facts, base),
      vfio_(in, options, facts) {
}

Status RecordWalker::walk() {
  HANDOVER_TRY(records({}));
  HANDOVER_TRY(vmdescription());
  ram_.finish();
  vfio_.finish();
  facts_.length = in_.offset();
  return {};
}

Status RecordWalker::records(std::optional<std::uint64_t> package_end) {
  while (!package_end || in_.offset() < *package_end) {
    const std::uint64_t at = in_.offset();
    HANDOVER_ASSIGN(auto record, read_record(in_));
    if (record == Record::eof) {
      if (!package_end) return {};
      return fail(Errc::protocol, "an EOF mark at offset {}, inside a package", at);
    }
    if (record == Record::command)
      HANDOVER_TRY(command(package_end.has_value()));
    else
      HANDOVER_TRY(section(record));
  }
  if (in_.offset() > *package_end)
    return fail(Errc::protocol, "the last record of the package that ends at offset {} runs over its end",
                *package_end);
  return {};
}

Status RecordWalker::section(Record kind) {
  InspectedSection section;
  section.offset = in_.offset() - 1;
  HANDOVER_ASSIGN_CONTEXT(section.header, read_section_header(in_, kind), "at offset {}", section.offset);
  SectionHeader& header = section.header;
  if (kind == Record::section_start || kind == Record::section_full) {
    introduced_[header.id] = header;
  } else {
    auto found = introduced_.find(header.id);
    if (found == introduced_.end())
      return fail(Errc::protocol, "{} of section {} at offset {}, which nothing introduced",
                  record_name(kind), header.id, section.offset);
    header = found->second;
    header.kind = kind;
  }
  const std::uint64_t start = in_.offset();
  HANDOVER_TRY_CONTEXT(body(section), "{} of {} at offset {}", record_name(kind), header.to_string(),
                       section.offset);
  section.body_size = in_.offset() - start;
  HANDOVER_TRY(read_section_footer(in_, header));
  facts_.sections.push_back(std::move(section));
  return {};
}

Status RecordWalker::body(InspectedSection& section) {
  const SectionHeader& header = section.header;
  if (header.kind == Record::section_full) return full_body(section);
  if (header.name == ram::kSectionName) {
    if (header.version != ram::kSectionVersion)
      return fail(Errc::unsupported, "version {} instead of {}", header.version, ram::kSectionVersion);
    return ram_.walk(header.kind);
  }
  if (VfioWalker::is_vfio(header.name)) return vfio_.walk(section, {});
  return skip_body(section, {});
}

Status RecordWalker::full_body(InspectedSection& section) {
  std::optional<std::uint64_t> size;
  HANDOVER_TRY(described_size(section.header, size));
  ++full_sections_;
  if (VfioWalker::is_vfio(section.header.name)) return vfio_.walk(section, size);
  const KnownSection* known = find_known(section.header);
  if (known == nullptr) return skip_body(section, size);
  if (size && *size < known->size)
    return fail(Errc::protocol, "the vmdescription says {} bytes, it has at least {}", *size, known->size);
  HANDOVER_TRY(known_body(section, known->size));
  if (size) return in_.skip(*size - known->size);
  HANDOVER_ASSIGN(auto next, in_.peek(1));
  const bool subsections =
      !next.empty() && next[0] == std::byte{static_cast<std::uint8_t>(Record::subsection)};
  return subsections ? skip_body(section, {}) : Status{};
}

Status RecordWalker::known_body(InspectedSection& section, std::uint64_t size) {
  if (section.header.name != kGlobalState) return in_.skip(size);
  HANDOVER_ASSIGN(auto length, in_.be32());
  std::string text(kRunStateBytes, '\0');
  HANDOVER_TRY(in_.bytes(std::as_writable_bytes(std::span(text))));
  text.resize(std::min(text.find('\0'), text.size()));
  if (length != text.size() + 1)
    return fail(Errc::protocol, "a run state of {} bytes that is said to have {}", text.size() + 1, length);
  facts_.run_state = std::move(text);
  return in_.skip(size - 4 - kRunStateBytes);
}

Status RecordWalker::skip_body(InspectedSection& section, std::optional<std::uint64_t> size) {
  if (size) return in_.skip(*size);
  section.guessed = true;
  auto skipped = skip_to_footer(in_, section.header.id);
  return skipped ? Status{} : Status(std::unexpected(std::move(skipped).error()));
}

Status RecordWalker::described_size(const SectionHeader& header, std::optional<std::uint64_t>& size) {
  if (!described_) return {};
  if (full_sections_ >= described_->sections.size())
    return fail(Errc::protocol, "the vmdescription has only {} sections and does not describe it",
                described_->sections.size());
  const DescribedSection& described = described_->sections[full_sections_];
  if (described.name != header.name || described.instance != header.instance)
    return fail(Errc::protocol, "the vmdescription has '{}' instance {} in its place", described.name,
                described.instance);
  size = described.size;
  return {};
}

Status RecordWalker::command(bool in_package) {
  InspectedCommand command;
  command.offset = in_.offset() - 1;
  HANDOVER_ASSIGN(command.record, read_command(in_));
  const CommandRecord record = command.record;
  facts_.commands.push_back(std::move(command));
  if (record.command == Command::postcopy_advise && record.payload.size() == 16)
    ram_.set_host_page_sizes(load_be<std::uint64_t>(record.payload.data()));
  if (record.command != Command::packaged) return {};
  const std::uint64_t start = in_.offset();
  if (in_package) return fail(Errc::protocol, "a package inside a package, at offset {}", start);
  HANDOVER_TRY_CONTEXT(records(start + record.word()), "package at offset {}", start);
  return {};
}

Status RecordWalker::vmdescription() {
  HANDOVER_ASSIGN(auto text, read_vmdescription(in_));
  if (!text) {
    if (described_)
      return fail(Errc::protocol, "no vmdescription follows the EOF mark at offset {}", in_.offset());
    return {};
  }
  const std::uint64_t end = in_.offset();
  HANDOVER_ASSIGN(auto ended, in_.at_end());
  if (!ended) return fail(Errc::protocol, "the stream ends at offset {}, but there are bytes behind it", end);
  facts_.vmdescription_length = text->size();
  if (text->empty()) return {};
  HANDOVER_ASSIGN_CONTEXT(auto described, read_described_sections(*text), "at offset {}", end - text->size());
  facts_.vmdescription_devices = described.sections.size();
  return compare(described);
}

Status RecordWalker::compare(const DescribedSections& described) const {
  std::size_t index = 0;
  for (const InspectedSection& section : facts_.sections) {
    if (section.header.kind != Record::section_full) continue;
    if (index == described.sections.size()) break;
    const DescribedSection& one = described.sections[index++];
    if (one.name != section.header.name || one.instance != section.header.instance ||
        one.size != section.body_size)
      return fail(Errc::protocol,
                  "{} at offset {} has instance {} and {} bytes, the vmdescription has '{}' instance {} with "
                  "{} bytes",
                  section.header.to_string(), section.offset, section.header.instance, section.body_size,
                  one.name, one.instance, one.size);
  }
  if (full_sections_ != described.sections.size())
    return fail(Errc::protocol,
                "the stream, which ends at offset {}, has {} full sections, the vmdescription {}",
                in_.offset(), full_sections_, described.sections.size());
  return {};
}

}  // namespace handover::stream
