#pragma once

#include <stdexcept>
#include <vector>

#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"
#include "support/memory_channel.h"

namespace handover::test {

/// What `save(StreamWriter&)` writes.
template <class Save>
std::vector<std::byte> bytes_of(Save save) {
  MemoryChannel channel;
  StreamWriter out(channel);
  Status saved = save(out);
  if (saved) saved = out.flush();
  if (!saved) throw std::runtime_error(saved.error().to_string());
  return channel.output;
}

/// Lets `load(StreamReader&)` read them.
template <class Load>
Status load_from(std::vector<std::byte> bytes, Load load) {
  MemoryChannel channel(std::move(bytes));
  StreamReader in(channel);
  return load(in);
}

}  // namespace handover::test
