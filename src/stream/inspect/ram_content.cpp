#include "stream/inspect/ram_content.h"

#include <cstring>

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
  const bool zero = bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, size - 1) == 0;
  if (!zero) std::memset(bytes.data(), 0, size);
}

std::string RamContent::sha256() const {
  Sha256 hash;
  hash.add(memory_.span());
  return hash.hex();
}

}  // namespace handover::stream
