#pragma once

#include <functional>
#include <string>

#include "handover/stream/command.h"
#include "handover/stream/configuration.h"
#include "handover/stream/inspector.h"
#include "handover/stream/section.h"
#include "handover/stream/vmdescription.h"
#include "support/memory_channel.h"

namespace handover::test {

/// Writes a stream record by record, sound or not, and inspects it.
class MadeStream {
 public:
  explicit MadeStream(const stream::Configuration& configuration = {.machine = "none"}) {
    stream::write_header(out, configuration);
  }

  void section(stream::Record kind, std::uint32_t id, const std::string& name,
               const std::function<void()>& body, std::uint32_t version = 1) {
    stream::write_section_header(out, {kind, id, name, 0, version});
    body();
    stream::write_section_footer(out, id);
  }
  /// START of `ram` with one block of `pages` pages, named m0.
  void ram_start(std::uint64_t pages) {
    section(
        stream::Record::section_start, 1, "ram",
        [&] {
          out.be64(pages * kPageSize | stream::ram::kMemSize);
          out.str8("m0");
          out.be64(pages * kPageSize);
          out.be64(stream::ram::kEos);
        },
        stream::ram::kSectionVersion);
  }
  void ram_part(const std::function<void()>& words) {
    section(stream::Record::section_part, 1, "", [&] {
      words();
      out.be64(stream::ram::kEos);
    });
  }

  Result<stream::StreamFacts> inspect(const stream::InspectOptions& options = {.hash = true}) {
    (void)out.flush();
    MemoryChannel channel(sink.output, 777);
    return stream::inspect_channel(channel, options);
  }
  /// Ends the stream properly, inspects it and returns the message of the failure.
  std::string failure() {
    stream::write_eof(out);
    auto facts = inspect();
    return facts ? "it was accepted" : facts.error().to_string();
  }

  MemoryChannel sink;
  StreamWriter out{sink};
};

}  // namespace handover::test
