#include "memory/mapped_ram_layout.h"

namespace handover::mapped_ram {

Header place(std::uint64_t header_end, std::uint64_t pages) {
  Header header;
  header.bitmap_offset = header_end;
  header.pages_offset = align_up(header_end + bitmap_bytes(pages), kPagesAlignment);
  return header;
}

void write_header(StreamWriter& out, const Header& header) {
  out.be32(header.version);
  out.be64(header.page_size);
  out.be64(header.bitmap_offset);
  out.be64(header.pages_offset);
}

Result<Header> read_header(StreamReader& in) {
  Header header;
  HANDOVER_ASSIGN(header.version, in.be32());
  HANDOVER_ASSIGN(header.page_size, in.be64());
  HANDOVER_ASSIGN(header.bitmap_offset, in.be64());
  HANDOVER_ASSIGN(header.pages_offset, in.be64());
  return header;
}

Status check(const Header& header, std::uint64_t header_end, std::string_view block, std::uint64_t block_size,
             std::uint64_t file_size) {
  if (header.version != kVersion)
    return fail(Errc::unsupported, "RAM block `{}` has a mapped-ram header of version {}, only {} is known",
                block, header.version, kVersion);
  if (header.page_size != kPageSize)
    return fail(Errc::unsupported, "RAM block `{}` was saved in pages of {} bytes, here they have {}", block,
                header.page_size, kPageSize);
  if (header.pages_offset % kPageSize != 0 || header.pages_offset < header_end)
    return fail(Errc::protocol,
                "the pages of RAM block `{}` cannot begin at byte {}: its header ends at {}, and a page's "
                "place is a multiple of {}",
                block, header.pages_offset, header_end, kPageSize);
  const auto missing = [&](std::string_view what, std::uint64_t offset,
                           std::uint64_t size) -> std::unexpected<Error> {
    return fail(Errc::closed,
                "the {} of RAM block `{}` are not all there: {} bytes from byte {} on were written, and the "
                "file ends at byte {}",
                what, block, size, offset, file_size);
  };
  const std::uint64_t bits = bitmap_bytes(block_size / kPageSize);
  if (!range_fits(header.bitmap_offset, bits, file_size))
    return missing("bitmap's bytes", header.bitmap_offset, bits);
  if (!range_fits(header.pages_offset, block_size, file_size))
    return missing("pages", header.pages_offset, block_size);
  return {};
}

}  // namespace handover::mapped_ram
