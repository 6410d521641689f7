#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "handover/base/result.h"
#include "handover/stream/configuration.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"
#include "handover/stream/vmstate.h"

namespace handover::stream {

/// Collects the JSON that describes every FULL section, in stream order (qemu-stream 2.8).
class VmdescriptionBuilder {
 public:
  explicit VmdescriptionBuilder(const Configuration& configuration);

  /// A section whose body is `object`, written by `description`; call it while the object is as it was
  /// written.
  void add(const std::string& name, std::uint32_t instance, const vmstate::Description& description,
           const void* object);
  /// A section whose body is `size` raw bytes.
  void add_raw(const std::string& name, std::uint32_t instance, std::uint64_t size);

  /// The text, in QEMU's spelling: one line, a blank after each comma and colon.
  std::string text() const;

 private:
  std::string head_;
  std::string devices_;
};

/// The record that follows the EOF mark: type byte, length, text.
void write_vmdescription(StreamWriter& out, std::string_view text);
/// Reads it; nothing if the stream ends instead.  A text above kMaxVmdescription is refused.
Result<std::optional<std::string>> read_vmdescription(StreamReader& in);

}  // namespace handover::stream
