#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "handover/stream/inspector.h"
#include "handover/stream/stream_reader.h"
#include "stream/inspect/sha256.h"

namespace handover::stream {

/// Follows the bodies of `.../vfio` sections (qemu-stream 6).
class VfioWalker {
 public:
  VfioWalker(StreamReader& in, const InspectOptions& options, StreamFacts& facts)
      : in_(in), options_(options), facts_(facts) {}

  static bool is_vfio(std::string_view section_name);

  /// One body.  Device config has no length: it follows from `body_size` where that is known, and otherwise
  /// from a search for the footer, which sets `guessed`.
  Status walk(InspectedSection& section, std::optional<std::uint64_t> body_size);
  void finish();

 private:
  InspectedVfio& device(const SectionHeader& header);
  Result<std::uint64_t> config(InspectedSection& section, std::uint64_t start,
                               std::optional<std::uint64_t> body_size);
  Status data(InspectedVfio& device, std::size_t index, std::uint64_t size);

  StreamReader& in_;
  const InspectOptions& options_;
  StreamFacts& facts_;
  std::map<std::string, std::size_t> by_name_;
  std::vector<Sha256> hashes_;  // in the order of facts_.vfio, with hash alone
  std::vector<std::byte> buffer_;
};

}  // namespace handover::stream
