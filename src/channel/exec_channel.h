#pragma once

#include "handover/channel/channel.h"

namespace handover {

/// Runs `/bin/sh -c COMMAND` with the channel as its standard input.
Result<std::unique_ptr<Channel>> write_to_command(const Address& address);
/// Runs `/bin/sh -c COMMAND` with the channel as its standard output and nothing as its input.
Result<std::unique_ptr<Channel>> read_from_command(const Address& address);

}  // namespace handover
