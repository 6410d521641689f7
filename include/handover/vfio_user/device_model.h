#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "handover/base/result.h"
#include "handover/base/unique_fd.h"
#include "handover/base/units.h"
#include "handover/vfio_abi/device_info.h"
#include "handover/vfio_abi/device_state.h"

namespace handover::vfio_user {

/// A region of a device model.
struct RegionSpec {
  std::uint64_t size = 0;  ///< 0: none
  std::uint32_t flags = 0;
  int fd = -1;  ///< memory that clients may map (a memfd of the model's); -1: messages only
  std::uint64_t fd_offset = 0;
  std::vector<vfio::RegionArea> areas;  ///< what may be mapped; empty with an fd: all of it
};

/// What a device model shows of itself; fixed for its life.
struct DeviceSpec {
  std::string name;  ///< for messages
  RegionSpec regions[vfio::kPciRegions];
  std::uint32_t irq_counts[vfio::kPciIrqs] = {};
  bool resettable = true;
  std::uint64_t migration_features = 0;  ///< kMigration... bits; 0: cannot migrate
  bool dma_logging = false;              ///< the server logs what the model writes through DeviceBus
};

/// What the server gives a device model to reach the machine.  Every call may come from any thread of the
/// model's, except that calls marked "may wait" must not come from a DeviceModel callback (they can need
/// an answer that the same thread has to read).
class DeviceBus {
 public:
  virtual ~DeviceBus() = default;
  /// Reads or writes memory of the machine.  May wait (memory that was not passed as a descriptor is
  /// reached by messages).  Fails if any byte is not mapped with that permission; a write is logged.
  virtual Status dma_read(Iova from, std::span<std::byte> to) = 0;
  virtual Status dma_write(Iova to, std::span<const std::byte> from) = 0;
  /// Raises an interrupt; without effect if the client installed no eventfd.
  virtual void trigger_irq(std::uint32_t index, std::uint32_t vector) = 0;
};

/// A device that lives in a process of its own and is served over vfio-user.
///
/// The server's event loop makes every call; none may block for long.  Whatever takes time (stopping a
/// DMA engine, dropping references) is finished later by calling the completion, from any thread; until
/// then the server goes on serving answers to its own DMA messages and holds back further commands.
///
/// Who calls what when a device migrates (mission B3):
///   source:      transition RUNNING>PRE_COPY, migration_read..., PRE_COPY>PRE_COPY_P2P,
///   PRE_COPY_P2P>STOP_COPY,
///                migration_read... until it returns less than asked for, STOP_COPY>STOP.
///   destination: RUNNING>...>STOP>RESUMING, migration_write..., RESUMING>STOP (the state is judged here),
///                STOP>RUNNING_P2P, RUNNING_P2P>RUNNING.
class DeviceModel {
 public:
  using Completion = std::function<void(Status)>;

  virtual ~DeviceModel() = default;

  virtual const DeviceSpec& spec() const = 0;
  /// Once, before anything else; the bus outlives the model's use of it.
  virtual void attach(DeviceBus& bus) = 0;

  /// Offset and size have been checked against the region.  An access that the device ignores succeeds.
  virtual Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) = 0;
  virtual Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) = 0;

  /// Power-on state; mappings and eventfds stay.  Also leaves ERROR.
  virtual void reset(Completion done) = 0;

  /// One single arc of the state table, never a combined one.  The device must be as the target state
  /// demands when `done` is called: after STOP or STOP_COPY no more DMA and no interrupt.  After a failure
  /// the device stays in `from`.
  virtual void transition(vfio::DeviceState from, vfio::DeviceState to, Completion done) = 0;

  /// The next bytes of the device's state, in PRE_COPY, PRE_COPY_P2P and STOP_COPY.  Fewer than asked for:
  /// nothing more now (pre-copy) or at all (stop-copy).
  virtual Result<std::size_t> migration_read(std::span<std::byte> to) = 0;
  /// Bytes in order, cut anywhere, in RESUMING.
  virtual Status migration_write(std::span<const std::byte> from) = 0;
  virtual std::optional<vfio::PrecopyInfo> precopy_info() const { return std::nullopt; }
  virtual std::optional<std::uint64_t> stop_copy_size() const { return std::nullopt; }

  /// The range is about to become unreachable: the model finishes or drops its DMA there, then calls done.
  virtual void dma_unmapping(Iova start, std::uint64_t size, Completion done) {
    (void)start, (void)size;
    done({});
  }
  /// The client is gone; memory and interrupts are no longer reachable once `done` has been called.  The
  /// device keeps its state; the server has taken it out of every saving or resuming state before.
  virtual void disconnected(Completion done) { done({}); }
};

}  // namespace handover::vfio_user
