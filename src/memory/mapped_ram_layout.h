#pragma once

#include <cstdint>
#include <string_view>

#include "handover/base/result.h"
#include "handover/base/units.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"

/// Where things are in a mapped-ram file (qemu-stream 4.7): behind each entry of the block list a header, a
/// bitmap, and the pages, each at a place of its own.  No I/O beyond the header's bytes.
namespace handover::mapped_ram {

inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::uint64_t kHeaderBytes = 28;
/// QEMU's, so that pages suit O_DIRECT on any disk.  A reader must not rely on more than whole pages.
inline constexpr std::uint64_t kPagesAlignment = 0x100000;

/// Positions count from the file's first byte, wherever the stream begins.
struct Header {
  std::uint32_t version = kVersion;
  std::uint64_t page_size = kPageSize;
  std::uint64_t bitmap_offset = 0;
  std::uint64_t pages_offset = 0;
  bool operator==(const Header&) const = default;
};

/// One bit a page, in whole words of 64.
constexpr std::uint64_t bitmap_bytes(std::uint64_t pages) {
  return align_up(pages, 64) / 8;
}

/// The layout of a block of `pages` whose header ends at `header_end`.
Header place(std::uint64_t header_end, std::uint64_t pages);

void write_header(StreamWriter& out, const Header& header);
Result<Header> read_header(StreamReader& in);

/// Refuses what cannot be read: another version or page size, places that the file does not have, pages that
/// would begin before the header's end.  Areas that overlap each other harm nobody.
Status check(const Header& header, std::uint64_t header_end, std::string_view block, std::uint64_t block_size,
             std::uint64_t file_size);

}  // namespace handover::mapped_ram
