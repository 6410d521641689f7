#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "handover/base/result.h"
#include "handover/memory/guest_memory.h"

namespace handover {

/// The pages of every block that are still to be sent.
class DirtyMemory {
 public:
  explicit DirtyMemory(GuestMemory& memory);

  GuestMemory& memory() { return memory_; }
  DirtyBitmap& of(const RamBlock& block);
  /// Marks a guest-physical range; parts that are no RAM are ignored.  Returns how many pages were new.
  std::uint64_t mark(Gpa start, std::uint64_t length);
  std::uint64_t count() const;

 private:
  GuestMemory& memory_;
  std::vector<std::pair<const RamBlock*, std::unique_ptr<DirtyBitmap>>> bitmaps_;
};

/// Which sync of a migration it is.
enum class DirtySync {
  round,  ///< the guest runs, and another one follows
  last,   ///< nobody writes any more: whatever was held back must come now
};

/// How it is learnt what devices wrote, for people and for management.
struct DirtyTracking {
  std::string who;       ///< "device `a`"
  std::string tracker;   ///< "device", "iommufd", "type1", "all"
  bool pre_copy = true;  ///< false: asked only when the machine stands still
  std::string reason;
};

/// Someone who knows which guest pages were written: vCPUs, this process, a device by DMA.
///
/// All calls come from the migration thread.  A page that is written after sync() returned shows up in the
/// next sync(); none is ever lost.
class DirtySource {
 public:
  virtual ~DirtySource() = default;
  /// For people: "vcpu0", "device accel0 (DMA log)".
  virtual std::string name() const = 0;
  /// Empty for what is no device's.  Any thread.
  virtual std::optional<DirtyTracking> tracking() const { return std::nullopt; }
  virtual Status start() = 0;
  /// Moves what was written since the last sync into `to`.
  virtual Status sync(DirtyMemory& to, DirtySync which) = 0;
  /// Idempotent; also called after a failed start.
  virtual void stop() = 0;
};

/// What this process itself wrote into guest memory (RamBlock::written).
class ProcessWrites final : public DirtySource {
 public:
  explicit ProcessWrites(GuestMemory& memory) : memory_(memory) {}
  std::string name() const override { return "vcpus and this process"; }
  Status start() override;
  Status sync(DirtyMemory& to, DirtySync which) override;
  void stop() override;

 private:
  GuestMemory& memory_;
  bool started_ = false;
};

}  // namespace handover
