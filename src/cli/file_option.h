#pragma once

#include <string>

#include "handover/channel/address.h"

namespace handover::cli {

/// A file as people name it: a plain path, or `file:PATH[,offset=N]` where the stream is inside a file.
Result<Address> file_address(const std::string& text);

}  // namespace handover::cli
