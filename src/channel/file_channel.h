#pragma once

#include "handover/channel/channel.h"

namespace handover {

/// `file:PATH[,offset=N]` for writing: creates the file (readable by its owner alone, as it holds guest
/// memory) and cuts it off at the offset.
Result<std::unique_ptr<Channel>> create_file_channel(const Address& address);
/// The same for reading, from the offset on.
Result<std::unique_ptr<Channel>> open_file_channel(const Address& address);

}  // namespace handover
