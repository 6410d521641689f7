#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "handover/machine/machine.h"
#include "handover/vfio/device.h"

namespace handover::vmm {

/// Peer to peer: lets every device of a machine reach the memory in the others' BARs by DMA, at the address
/// at which the guest sees it.
///
/// A device publishes where its mappable areas are; sync() makes what each device has mapped the same as what
/// all the others have published.  What lies over guest RAM or over an area published before is left out, as
/// the bus answers from there.  A mapping that fails is tried again by the next sync().
///
/// Threads: the guest's config writes come from the vCPU's thread while the machine runs; the states of
/// several devices may be applied by as many load threads at once; plugging, unplugging and the last look
/// before a start (prepare()) come from the machine's thread.  So any thread may call anything.  The lock is
/// a leaf: device calls are made without it, by one thread at a time.  Who comes meanwhile leaves its change
/// to that one and returns; so once all load threads have returned everything is mapped.
class PeerMappings final : public RunStateListener {
 public:
  /// A mappable area of a memory BAR, where it decodes now.
  struct Area {
    Gpa at;
    std::shared_ptr<const Mapping> bytes;
    vfio::AreaFile file;
    std::uint32_t flags = vfio::kDmaRead | vfio::kDmaWrite;
  };

  /// `memory` outlives the object, its layout does not change.
  explicit PeerMappings(const GuestMemory& memory) : memory_(memory) {}

  void join(vfio::Device& device);
  /// Replaces what the device had published; takes effect with the next sync().
  void publish(vfio::Device& device, std::vector<Area> areas);
  /// The first failure, after everything has been tried.
  Status sync();
  /// Takes the device's areas out of the others and theirs out of it; without effect if it never joined.
  void leave(vfio::Device& device);

  // RunStateListener: told first on a start, so that everything is mapped before any device runs.
  std::string name() const override { return "peer to peer DMA"; }
  int priority() const override { return -1; }
  Status prepare(RunState from, RunState to) override;
  Status change(RunState, RunState) override { return {}; }

 private:
  struct Mapped {
    std::uint64_t owner = 0;
    Area area;
    bool same_as(const Mapped& other) const;
  };
  struct Member {
    std::uint64_t number = 0;  // never used again, unlike an address
    vfio::Device* device = nullptr;
    std::vector<Area> areas;
    std::vector<Mapped> mapped;
  };
  struct Step {
    std::uint64_t member = 0;
    vfio::Device* device = nullptr;
    Mapped what;
    bool map = false;
    bool done = false;
  };

  bool over_ram(const Area& area) const;
  std::vector<Mapped> visible() const;
  std::vector<Step> plan() const;
  static Status perform(Step& step);
  void settle(const std::vector<Step>& steps);
  Status carry_out(std::unique_lock<std::mutex>& lock);

  const GuestMemory& memory_;
  std::mutex mutex_;  // leaf
  std::condition_variable idle_;
  std::vector<Member> members_;
  std::uint64_t next_number_ = 1;
  bool busy_ = false;   // somebody makes device calls
  bool again_ = false;  // and must look once more
};

}  // namespace handover::vmm
