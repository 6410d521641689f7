#pragma once

#include <cstdint>
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

/// Counters of one item, for query-migrate and reports.  Read by other threads through Statistics.
struct ItemCounters {
  std::uint64_t bytes = 0;         ///< payload and its framing
  std::uint64_t normal_pages = 0;  ///< RAM only
  std::uint64_t zero_pages = 0;    ///< RAM only
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

  // Source.
  /// Last checks on the control thread; refuses with a reason that a person understands.
  virtual Status prepare() { return {}; }
  /// Body of START.
  virtual Status save_setup(StreamWriter&) { return {}; }
  /// What is left.  `exact` may cost time (a dirty sync); otherwise the last known numbers will do.
  virtual Result<Pending> pending(bool exact) {
    (void)exact;
    return Pending{};
  }
  /// Body of one PART, while the machine runs.
  virtual Result<Iterated> save_iterate(StreamWriter&, const IterateBudget&) { return Iterated::nothing_now; }
  /// Body of END; the machine is stopped and every item has been told.
  virtual Status save_complete(StreamWriter&) { return {}; }
  /// Body of FULL; the machine is stopped.
  virtual Status save_state(StreamWriter&) { return {}; }
  /// How FULL describes itself in the vmdescription; null: raw bytes ("data").  Valid after save_state().
  virtual const vmstate::Description* description() const { return nullptr; }
  /// The object that description() describes.
  virtual const void* described_object() const { return nullptr; }
  virtual ItemCounters counters() const { return {}; }

  // Destination.
  virtual Status load_setup() { return {}; }
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
  /// Everything iterated over has been loaded; the source is stopped.
  virtual Status switchover_start() { return {}; }
  /// All sections are in: last checks before the destination says that it is ready (the PONG).
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
