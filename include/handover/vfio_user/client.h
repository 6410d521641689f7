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
  /// A device that another client left in another state than running is set running, or reset if it does not
  /// go there.  True: it stays as it is; some servers then say nothing about it until it runs.
  bool keep_state = false;
};

/// Connects to a vfio-user server, negotiates, and reads what the device is.
///
/// `memory` answers the server's DMA messages, if it sends any; what they write is logged there.
/// A thread of the client's reads the socket; it ends with the object.  Cancelling `cancel` makes waiting
/// calls return, and the device counts as lost.
Result<std::unique_ptr<vfio::Device>> connect(ClientOptions options, GuestMemory& memory, CancelToken cancel);

}  // namespace handover::vfio_user
