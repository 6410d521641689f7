#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "handover/base/result.h"
#include "handover/memory/guest_memory.h"
#include "handover/stream/vmstate.h"
#include "handover/vfio/iova_map.h"

namespace handover::vfio {

/// One change of a domain, as the devices in it are told.
struct IommuChange {
  enum class Kind { map, unmap };
  Kind kind = Kind::map;
  IommuMapping mapping;  ///< unmap: one that was mapped, whole
  Status result = {};    ///< out
};

/// Told what a device behind the IOMMU may reach.
class IommuListener {
 public:
  virtual ~IommuListener() = default;
  /// In their order; none unmaps what another of them maps.  After a successful unmap the device does not
  /// touch the memory any more.
  virtual void change(std::span<IommuChange> changes) = 0;
};

/// What a guest asks of its IOMMU.
struct IommuRequest {
  IommuChange::Kind kind = IommuChange::Kind::map;
  Iova iova;
  std::uint64_t size = 0;
  Gpa target = {};          ///< map
  std::uint32_t flags = 0;  ///< map: kDmaRead, kDmaWrite
  /// out.  Errc::invalid_argument: makes no sense, is no RAM; state: overlaps, or would cut a mapping; limit:
  /// too many; not_found: no such domain; any other: a device could not be told.
  Status result = {};
};

/// What of a VirtualIommu travels in a migration.
struct IommuState {
  struct Endpoint {
    std::uint32_t id = 0;
    std::uint32_t domain = 0;
  };
  struct Domain {
    std::uint32_t id = 0;
    std::uint32_t bytes = 0;          ///< of `mappings`
    std::vector<std::byte> mappings;  ///< of each: IOVA, size, guest-physical address, flags; u64, big-endian
  };
  std::uint32_t domain_count = 0;
  std::vector<Domain> domains;
  std::uint32_t endpoint_count = 0;
  std::vector<Endpoint> endpoints;

  static const std::shared_ptr<const vmstate::Description>& description();
};

/// A guest's IOMMU, whatever interface the guest has to it: domains with mappings from IOVA to
/// guest-physical addresses, and devices (endpoints) attached to them.  A device that is attached to no
/// domain reaches nothing.  A domain lasts as long as something is attached to it.
///
/// An unmap may cover several mappings and holes, and may not cut one, as the kernel's type1 v2 and
/// virtio-iommu have it.
///
/// Calls come from one thread at a time: the vCPU's while the machine runs, else the one that plugs, saves or
/// loads.  mappings() may be called by any.
class VirtualIommu {
 public:
  struct Options {
    unsigned iova_bits = 48;
    std::uint64_t page_sizes =
        ~(kPageSize - 1);  ///< the lowest bit is the smallest; a mapping is of whole ones
    std::size_t max_mappings = std::size_t{1} << 20;
  };
  static constexpr std::uint32_t kMaxEndpoints = 256;

  /// `memory` outlives the object; its layout does not change.
  VirtualIommu(const GuestMemory& memory, const Options& options) : memory_(memory), options_(options) {}

  const Options& options() const { return options_; }
  std::size_t mappings() const { return mappings_.load(std::memory_order_relaxed); }

  /// `listener` is told of everything until it is removed.
  void add_endpoint(std::uint32_t id, IommuListener& listener);
  /// The endpoint is gone; its listener is not told.
  void remove_endpoint(std::uint32_t id);

  /// An endpoint leaves the domain before; the new one is made if there is none of that number.
  Status attach(std::uint32_t id, std::uint32_t domain);
  Status detach(std::uint32_t id);
  /// In their order; each succeeds or fails by itself.  What fails for one device is undone for the others.
  void change(std::uint32_t domain, std::span<IommuRequest> requests);

  IommuState state() const;
  /// Takes the place of everything before; devices are told.  After a failure nothing is attached.
  Status load(const IommuState& state);

 private:
  struct Endpoint {
    IommuListener* listener = nullptr;
    std::uint32_t domain = 0;
    bool attached = false;
  };
  Status check(const IommuRequest& request) const;
  bool is_ram(Gpa at, std::uint64_t size) const;
  void drop_if_unused(std::uint32_t domain);
  void tell(std::uint32_t domain, std::vector<IommuChange>& changes);
  Status load_domain(const IommuState::Domain& domain);

  const GuestMemory& memory_;
  const Options options_;
  std::map<std::uint32_t, MappingTable> domains_;
  std::map<std::uint32_t, Endpoint> endpoints_;
  std::atomic<std::size_t> mappings_{0};
};

}  // namespace handover::vfio
