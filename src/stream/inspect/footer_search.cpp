#include "stream/inspect/footer_search.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "handover/base/byte_reader.h"
#include "handover/stream/command.h"
#include "handover/stream/section.h"

namespace handover::stream {
namespace {

/// True if the bytes could be the beginning of a record.
bool like_a_record(std::span<const std::byte> bytes) {
  BeReader in(bytes);
  auto type = in.u8();
  if (!type) return true;  // the end of a stream that was cut off, or of a package
  const auto record = static_cast<Record>(*type);
  if (record == Record::eof) {
    auto next = in.u8();
    return !next || *next == static_cast<std::uint8_t>(Record::vmdescription);
  }
  if (record == Record::command) {
    auto number = in.u16();
    return number && command_name(static_cast<Command>(*number)) != "unknown";
  }
  if (record == Record::section_part || record == Record::section_end) return in.remaining() >= 4;
  if (!is_section(record) || !in.skip(4)) return false;
  auto name = in.str8();
  return name && !name->empty() &&
         std::ranges::all_of(*name, [](char one) { return one > ' ' && one <= '~'; });
}

}  // namespace

Result<std::uint64_t> skip_to_footer(StreamReader& in, std::uint32_t id, std::span<const std::byte> ending) {
  std::vector<std::byte> pattern(ending.begin(), ending.end());
  pattern.push_back(std::byte{static_cast<std::uint8_t>(Record::section_footer)});
  pattern.resize(pattern.size() + 4);
  store_be(pattern.data() + pattern.size() - 4, id);

  const std::uint64_t start = in.offset();
  for (;;) {
    HANDOVER_ASSIGN(auto ahead, in.peek(StreamReader::kMaxPeek));
    if (ahead.size() < pattern.size())
      return fail(Errc::protocol, "no footer of section {} follows its body, which begins at offset {}", id,
                  start);
    if (std::ranges::equal(ahead.first(pattern.size()), pattern) &&
        like_a_record(ahead.subspan(pattern.size())))
      return in.offset() - start;
    // On to the next place where the pattern may begin, within what is buffered anyway.
    const auto buffered = in.buffered().subspan(1);
    const void* next = std::memchr(buffered.data(), std::to_integer<int>(pattern[0]), buffered.size());
    const std::size_t gap =
        next != nullptr ? static_cast<std::size_t>(static_cast<const std::byte*>(next) - buffered.data())
                        : buffered.size();
    HANDOVER_TRY(in.skip(1 + gap));
  }
}

}  // namespace handover::stream
