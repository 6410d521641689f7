#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "handover/base/cancel.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/device.h"

namespace handover::vfio_user {

struct ClientOptions {
  std::string id;  ///< the user's name for the device
  std::string socket_path;
  /// How long one answer may take before the device counts as lost.
  std::chrono::milliseconds timeout{30000};
};

/// Connects to a vfio-user server, negotiates, and reads what the device is.
///
/// `memory` answers the server's DMA messages, if it sends any; what they write is logged there.
/// A thread of the client's reads the socket; it ends with the object.  Cancelling `cancel` makes waiting
/// calls return, and the device counts as lost.
Result<std::unique_ptr<vfio::Device>> connect(ClientOptions options, GuestMemory& memory, CancelToken cancel);

}  // namespace handover::vfio_user
