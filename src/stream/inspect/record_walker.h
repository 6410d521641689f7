#pragma once

#include <map>
#include <optional>

#include "handover/stream/inspector.h"
#include "handover/stream/stream_reader.h"
#include "stream/inspect/described_sections.h"
#include "stream/inspect/ram_walker.h"
#include "stream/inspect/vfio_walker.h"

namespace handover::stream {

/// Follows the records of one stream from behind its header to its end.
class RecordWalker {
 public:
  /// `facts` has the configuration and the page size already; `described` is what is known of body lengths.
  RecordWalker(StreamReader& in, const InspectOptions& options, StreamFacts& facts,
               std::optional<DescribedSections> described, std::uint64_t base);

  Status walk();

 private:
  /// Records up to the EOF mark, or inside a package up to its end.
  Status records(std::optional<std::uint64_t> package_end);
  Status section(Record kind);
  Status body(InspectedSection& section);
  Status full_body(InspectedSection& section);
  Status known_body(InspectedSection& section, std::uint64_t size);
  Status skip_body(InspectedSection& section, std::optional<std::uint64_t> size);
  Status command(bool in_package);
  Status described_size(const SectionHeader& header, std::optional<std::uint64_t>& size);
  Status vmdescription();
  Status compare(const DescribedSections& described) const;

  StreamReader& in_;
  StreamFacts& facts_;
  std::optional<DescribedSections> described_;
  std::size_t full_sections_ = 0;
  std::map<std::uint32_t, SectionHeader> introduced_;
  RamWalker ram_;
  VfioWalker vfio_;
};

}  // namespace handover::stream
