#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "handover/base/result.h"
#include "handover/base/units.h"
#include "handover/channel/channel.h"
#include "handover/stream/command.h"
#include "handover/stream/configuration.h"
#include "handover/stream/section.h"

/// Walks a whole migration stream and says what is in it, without a machine to load it into.
namespace handover::stream {

struct InspectOptions {
  /// Compute SHA-256 of the file, of the RAM blocks' final content and of the VFIO devices' data.
  bool hash = false;
  /// Hashing keeps RAM in memory; streams with more RAM than this are refused when hash is set.
  std::uint64_t max_hashed_ram = 8 * GiB;
};

/// One START, PART, END or FULL record.
struct InspectedSection {
  SectionHeader header;         ///< name, instance and version also for PART and END
  std::uint64_t offset = 0;     ///< of the type byte
  std::uint64_t body_size = 0;  ///< without header and footer
  bool guessed = false;         ///< the body's end was found by searching for its footer
};

struct InspectedCommand {
  CommandRecord record;
  std::uint64_t offset = 0;
};

/// The extra header of a block in a mapped-ram file.
struct InspectedMappedRam {
  std::uint32_t version = 0;
  std::uint64_t page_size = 0;
  std::uint64_t bitmap_offset = 0;
  std::uint64_t pages_offset = 0;
  std::uint64_t pages_in_file = 0;
  std::vector<std::uint64_t> page_indexes;  ///< the first kMaxPageIndexes of them
};
inline constexpr std::size_t kMaxPageIndexes = 4096;

struct InspectedRamBlock {
  std::string name;
  std::uint64_t length = 0;
  std::optional<std::uint64_t> guest_address;   ///< with x-ignore-shared
  std::optional<std::uint64_t> host_page_size;  ///< huge pages and postcopy
  std::uint64_t distinct_pages = 0;
  std::optional<InspectedMappedRam> mapped;
  std::string sha256;  ///< hex; empty without hash
};

/// What the `.../vfio` sections of one device carry on this channel.
struct InspectedVfio {
  struct Record {
    stream::Record kind{};
    std::vector<std::string> tags;
  };
  std::string name;
  std::vector<Record> records;
  std::uint64_t data_bytes = 0;
  std::string data_sha256;  ///< hex; empty without hash
};

struct StreamFacts {
  std::optional<std::uint64_t> file_size;  ///< of a file, from the stream's first byte on
  std::string file_sha256;
  Configuration configuration;
  std::uint64_t page_size = kPageSize;
  std::uint64_t ram_total = 0;
  std::uint64_t zero_pages = 0;
  std::uint64_t normal_pages = 0;
  std::uint64_t xbzrle_pages = 0;
  std::uint64_t multifd_flushes = 0;
  std::vector<InspectedRamBlock> ram_blocks;
  std::vector<InspectedSection> sections;  ///< every record, in stream order
  std::vector<InspectedCommand> commands;
  std::vector<InspectedVfio> vfio;
  std::optional<std::string> run_state;  ///< of the source, from section `globalstate`
  std::optional<std::uint64_t> vmdescription_length;
  std::uint64_t vmdescription_devices = 0;
  std::uint64_t length = 0;  ///< bytes walked
};

/// Walks the stream in a file.  Bodies of sections that are not known here are measured with the stream's own
/// vmdescription, which is looked up at the end of the file first; where there is none, by searching for the
/// section's footer, and the section is marked as guessed.
///
/// Fails at the first byte that does not fit, with its offset and section.  Memory: some hundred bytes a
/// record, one bit a page, at most 64 MiB for the vmdescription, and with hash the RAM that was sent, at most
/// max_hashed_ram.
Result<StreamFacts> inspect_file(const Address& file, const InspectOptions& options);

/// The same for bytes that come only once; the vmdescription then only checks what was guessed.
/// `base` is the file offset of the channel's first byte, which mapped-ram files need.
Result<StreamFacts> inspect_channel(Channel& channel, const InspectOptions& options, std::uint64_t base = 0);

/// The facts as `handover inspect --json` prints them.
nlohmann::ordered_json to_json(const StreamFacts& facts);

}  // namespace handover::stream
