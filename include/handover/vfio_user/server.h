#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "handover/base/event_loop.h"
#include "handover/base/result.h"
#include "handover/vfio_user/device_model.h"

namespace handover::vfio_user {

struct ServerOptions {
  std::string socket_path;
  /// Largest data count of one message, announced to the client.
  std::uint32_t max_data_xfer_size = 1 << 20;
  std::uint32_t max_dma_maps = 65535;
};

/// Serves one device model on a UNIX socket, one client at a time; a second client waits in the backlog.
///
/// Lives on `loop`, which must be running on some thread; the destructor must not run on that thread.
/// What a client sends is checked in full; a client that breaks the protocol is answered with an error or
/// disconnected, and the server goes on.
class Server {
 public:
  /// Creates the socket (a stale socket file of a dead server is replaced; a live one is an error).
  static Result<std::unique_ptr<Server>> create(EventLoop& loop, DeviceModel& model, ServerOptions options);
  ~Server();

  bool client_connected() const;
  vfio::DeviceState device_state() const;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace handover::vfio_user
