#pragma once

#include <string>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

namespace handover::vfio_user {

/// A non-blocking listening socket.  A stale socket file of a dead server is replaced; a live one is an
/// error.
Result<UniqueFd> listen_unix(const std::string& path);
/// Waits while the server's backlog is full.
Result<UniqueFd> connect_unix(const std::string& path, const CancelToken& cancel, Deadline deadline);

/// Lets as much of a large message into the socket at once as the host allows, so that neither side has to be
/// woken again and again for the rest of it.
void widen(const UniqueFd& socket);

}  // namespace handover::vfio_user
