#pragma once

#include <string>

#include "handover/stream/inspector.h"

namespace handover::cli {

/// What `handover inspect` prints for people: header, RAM blocks, records, commands, VFIO devices.
std::string inspect_table(const stream::StreamFacts& facts);

}  // namespace handover::cli
