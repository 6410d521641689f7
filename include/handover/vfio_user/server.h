#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "handover/base/event_loop.h"
#include "handover/base/result.h"
#include "handover/vfio_user/device_model.h"

namespace handover::vfio_user {

/// How clients of a served device migrate it.
enum class MigrationInterface {
  v2,    ///< by DEVICE_FEATURE and migration data messages
  v1,    ///< by a migration region, index 9, as drivers and servers had it before v2
  none,  ///< not at all: neither features nor region
};

struct ServerOptions {
  std::string socket_path;
  /// Largest data count of one message, announced to the client.
  std::uint32_t max_data_xfer_size = 1 << 20;
  std::uint32_t max_dma_maps = 65535;
  /// The device model is the same for all.  A model that cannot migrate does not, whatever is said here.
  MigrationInterface migration = MigrationInterface::v2;
  /// Which of the model's migration features clients are offered; kMigrationStopCopy must be among them.
  /// Without kMigrationPreCopy everything goes while the device is stopped (a v1 client can ask for pre-copy
  /// all the same, as v1 demands, and finds nothing pending in it).  Without kMigrationP2p the model still
  /// goes through its P2P states on its way, but no client sees them or finds the device there.
  std::uint64_t migration_features_mask = ~std::uint64_t{0};
  /// False: the model's DMA is not logged, and clients must take all memory as written.
  bool dma_logging = true;
  /// The log as hardware has it: a start that names more ranges is refused with E2BIG, one that names more
  /// bytes in sum with EOPNOTSUPP, and only writes inside the ranges are logged.  A start without ranges
  /// means all addresses, which no limit of bytes allows.  A start while the log is on replaces the ranges;
  /// what was logged in the new ones stays.  0: no limit.  Without either limit everything is logged,
  /// whatever ranges a start names.
  std::uint32_t max_dma_log_ranges = 0;
  std::uint64_t max_dma_log_bytes = 0;
  /// v1: bytes of the data section, and so of the largest chunk; whole pages, up to 64 MiB.  With the page of
  /// the registers the default makes 1 MiB.
  std::uint32_t v1_data_size = (1 << 20) - 4096;
  /// v1: false: the data goes by reads and writes only.
  bool v1_data_mappable = true;
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
  /// Accesses of the device, since the server was made, to addresses that were not mapped for it.  They
  /// failed here and reached no memory.  Any thread.
  std::uint64_t dma_faults() const;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace handover::vfio_user
