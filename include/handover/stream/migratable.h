#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"
#include "handover/stream/vmstate.h"

namespace handover {

/// What a live item still has to send, in bytes.
struct Pending {
  std::uint64_t must_stop = 0;    ///< can only move while the machine is stopped
  std::uint64_t can_precopy = 0;  ///< can move while it runs
  bool hold_switchover = false;   ///< the item asks not to stop yet (initial bytes of a device, mission C3)
  bool size_unknown = false;      ///< the item cannot tell what it will send stopped: must_stop is a guess
  std::uint64_t total() const { return must_stop + can_precopy; }
};

/// How far one save_iterate() came.
enum class Iterated {
  more,         ///< the quota or the rate limit ended it; call again
  nothing_now,  ///< everything that can move now has moved
};

/// What the engine knows when it asks an item to iterate.
struct IterateBudget {
  /// Stop writing once the writer's position has grown by this much; at least one unit may always go out,
  /// so that a device that never runs dry cannot hold up the others (mission C2).
  std::uint64_t bytes = 0;
  CancelToken cancel;
};

/// How an outgoing migration travels, as far as its items must know.
struct SaveOptions {
  bool parallel = false;        ///< save_parallel() follows, so END and FULL leave the item's data out
  bool switchover_ack = false;  ///< the destination acknowledges the initial data of devices
  bool stopped = false;         ///< the machine stands still to the end: nothing is written meanwhile
};

/// A piece of an item's state on its way over any of several channels.
struct Packet {
  std::unique_ptr<std::byte[]> bytes;
  std::size_t size = 0;

  /// What it counts towards the bytes that may wait: both sides count the same, and tiny packets cost more
  /// memory than their bytes.
  std::uint64_t charge() const { return size + 256; }
};

/// Carries the packets of one item to its load_packet() on the other side, in any order.
class PacketSink {
 public:
  virtual ~PacketSink() = default;
  /// May wait for a free channel, and for the other side to have room for the item's packets.
  virtual Status send(Packet packet) = 0;
};

/// How far an item has been loaded, for the source's estimate and for its back-pressure.
struct LoadProgress {
  std::uint64_t bytes = 0;          ///< taken by the item so far
  std::uint64_t busy_ns = 0;        ///< time that this took, waits for the stream not counted
  std::uint64_t packet_charge = 0;  ///< Packet::charge() of the packets that it took
};

/// What an item may use while it is loaded.
struct LoadOptions {
  CancelToken cancel;
  bool parallel = false;         ///< packets may come
  bool mapped_ram = false;       ///< RAM stands in the stream's file, every page at a place of its own
  std::size_t file_threads = 0;  ///< that read its pages; 0: the load thread
  bool direct_io = false;        ///< past the page cache
  /// Bytes of packets that may wait in one item; more is a failure of the source.
  std::uint64_t max_queued = 64ull << 20;
  /// The initial data has been sent and loaded; load thread.  Empty: the source was not to ask.
  std::function<void()> approve_switchover;
  /// Any thread, often; cheap.
  std::function<void(const LoadProgress&)> report;
  /// A thread of the item's has failed: ends the migration.  Any thread.
  std::function<void(const Error&)> failed;
};

/// Counters of one item, for query-migrate and reports.  Read by other threads through Statistics.
struct ItemCounters {
  std::uint64_t bytes = 0;         ///< payload and its framing
  std::uint64_t normal_pages = 0;  ///< RAM only
  std::uint64_t zero_pages = 0;    ///< RAM only
  std::uint64_t queued_peak = 0;   ///< destination: the most bytes of packets that ever waited to be loaded
};

/// Everything that has state to move: RAM, a vCPU, a device.
///
/// An item is live (sections START, PART, END), has a body written once (section FULL), or both, as a VFIO
/// device has.  Calls come in the order below; cleanup() always comes last, whatever happened before, and
/// may come twice.  On the source all calls but prepare() are made by the migration thread, on the
/// destination by the load thread.  A failure of any call fails the migration and not the machine.
class Migratable {
 public:
  virtual ~Migratable() = default;

  /// Section name on the wire (`ram`, `0000:00:01.0/vfio`), at most 255 bytes.
  virtual std::string section_name() const = 0;
  virtual std::uint32_t instance_id() const { return 0; }
  virtual std::uint32_t version_id() const = 0;
  /// What people call it in messages: the device's id, `ram`.
  virtual std::string display_name() const { return section_name(); }
  virtual bool is_live() const { return false; }
  /// Has a FULL section.
  virtual bool has_state() const { return !is_live(); }
  /// FULL sections that go out before everything else, so that a mismatch is found at once.
  virtual bool is_early() const { return false; }
  /// FULL sections that go out once the machine has stopped and before the switchover mark: they have been
  /// loaded before any device has all of its state.
  virtual bool goes_before_devices() const { return false; }

  // Source.
  /// Last checks on the control thread; refuses with a reason that a person understands.
  virtual Status prepare() { return {}; }
  /// Body of START.
  virtual Status save_setup(StreamWriter&, const SaveOptions& = {}) { return {}; }
  /// What is left.  `exact` may cost time (a dirty sync); otherwise the last known numbers will do.
  virtual Result<Pending> pending(bool exact) {
    (void)exact;
    return Pending{};
  }
  /// Body of one PART, while the machine runs.
  virtual Result<Iterated> save_iterate(StreamWriter&, const IterateBudget&) { return Iterated::nothing_now; }
  /// Body of END; the machine is stopped and every item has been told.
  virtual Status save_complete(StreamWriter&) { return {}; }
  /// True if save_parallel() and load_packet() can carry what END and FULL would.
  virtual bool has_parallel_state() const { return false; }
  /// The machine is stopped; on a thread of its own, beside save_complete() of the others.
  virtual Status save_parallel(PacketSink&, const CancelToken&) {
    return fail(Errc::unsupported, "{} has no parallel state", section_name());
  }
  /// Acknowledgements of the destination that the item has asked for so far (switchover-ack).
  virtual std::uint64_t acks_wanted() const { return 0; }
  /// Body of FULL; the machine is stopped.
  virtual Status save_state(StreamWriter&) { return {}; }
  /// How FULL describes itself in the vmdescription; null: raw bytes ("data").  Valid after save_state().
  virtual const vmstate::Description* description() const { return nullptr; }
  /// The object that description() describes.
  virtual const void* described_object() const { return nullptr; }
  virtual ItemCounters counters() const { return {}; }

  // Destination.
  virtual Status load_setup(const LoadOptions& = {}) { return {}; }
  /// Body of START, PART or END.
  virtual Status load_live(StreamReader&, std::uint32_t version) {
    (void)version;
    return fail(Errc::protocol, "{} has no live section", section_name());
  }
  /// Body of FULL.
  virtual Status load_state(StreamReader&, std::uint32_t version) {
    (void)version;
    return fail(Errc::protocol, "{} has no full section", section_name());
  }
  /// Bytes of the largest packet that load_packet() takes; 0: it takes none.
  virtual std::size_t largest_packet() const { return 0; }
  /// One packet of save_parallel(), in any order; any thread, must not block for long.
  virtual Status load_packet(Packet) { return fail(Errc::protocol, "{} takes no packets", section_name()); }
  /// Everything iterated over has been loaded; the source is stopped.
  virtual Status switchover_start() { return {}; }
  /// All sections are in: waits for what is still being loaded, and makes the last checks before the
  /// destination says that it is ready (the PONG).  The items' calls run side by side, each on a thread.
  virtual Status load_finish() { return {}; }

  // Both.
  virtual void cleanup() {}
};

/// A Migratable whose whole state is one object with a description: vCPUs, machine state, interrupt state.
class StateItem : public Migratable {
 public:
  bool has_state() const override { return true; }
  std::uint32_t version_id() const override { return description()->version; }
  const vmstate::Description* description() const override = 0;
  const void* described_object() const override { return mutable_object(); }
  Status save_state(StreamWriter& out) override {
    description()->save(mutable_object(), out);
    return out.status();
  }
  Status load_state(StreamReader& in, std::uint32_t version) override {
    return description()->load(mutable_object(), in, version);
  }

 protected:
  virtual void* mutable_object() const = 0;
};

}  // namespace handover
