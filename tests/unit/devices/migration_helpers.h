#pragma once

#include <vector>

#include "unit/devices/accelerator_rig.h"

namespace handover::accelerator::test {

using Bytes = std::vector<std::byte>;

/// One migration_read; true if it filled the chunk, so that there may be more.
inline bool read_chunk(Rig& rig, Bytes& stream, std::size_t size) {
  const std::size_t at = stream.size();
  stream.resize(at + size);
  const auto got = rig.model->migration_read(std::span(stream).subspan(at));
  EXPECT_TRUE(got);
  stream.resize(at + got.value_or(0));
  return got.value_or(0) == size;
}

inline void read_all(Rig& rig, Bytes& stream, std::size_t chunk = MiB) {
  while (read_chunk(rig, stream, chunk)) {
  }
}

/// The whole state of a running device, which is then in STOP.
inline Bytes save(Rig& rig) {
  Bytes stream;
  rig.walk({DeviceState::running_p2p, DeviceState::stop, DeviceState::stop_copy});
  read_all(rig, stream);
  rig.walk({DeviceState::stop});
  return stream;
}

inline void begin_load(Rig& rig) {
  rig.walk({DeviceState::running_p2p, DeviceState::stop, DeviceState::resuming});
}

inline Status load(Rig& rig, std::span<const std::byte> stream) {
  begin_load(rig);
  HANDOVER_TRY(rig.model->migration_write(stream));
  return rig.go(DeviceState::stop);
}

inline void start(Rig& rig) {
  rig.walk({DeviceState::running_p2p, DeviceState::running});
}

}  // namespace handover::accelerator::test
