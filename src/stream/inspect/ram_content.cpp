#include "stream/inspect/ram_content.h"

#include <algorithm>

#include "stream/inspect/sha256.h"

namespace handover::stream {

Result<RamContent> RamContent::make(std::uint64_t length) {
  RamContent content;
  if (length > 0) {
    HANDOVER_ASSIGN(content.memory_, Mapping::anonymous(length));
  }
  return content;
}

void RamContent::clear(std::uint64_t offset, std::uint64_t size) {
  const auto bytes = page(offset, size);
  // Writing zeros over zeros would make the page resident.
  if (std::ranges::any_of(bytes, [](std::byte one) { return one != std::byte{0}; }))
    std::ranges::fill(bytes, std::byte{0});
}

std::string RamContent::sha256() const {
  Sha256 hash;
  hash.add(memory_.span());
  return hash.hex();
}

}  // namespace handover::stream
