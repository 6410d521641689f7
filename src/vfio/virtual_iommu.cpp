#include "handover/vfio/virtual_iommu.h"

#include <algorithm>

#include "handover/base/byte_order.h"
#include "handover/base/log.h"
#include "handover/base/trace.h"

namespace handover::vfio {
namespace {

constexpr std::size_t kWords = 4;  // of a mapping in the stream
constexpr std::size_t kMappingBytes = kWords * sizeof(std::uint64_t);
constexpr std::size_t kMostMappingBytes = (std::size_t{1} << 20) * kMappingBytes;
/// Mappings that devices are told of at once when a whole domain comes or goes.
constexpr std::size_t kSlice = 256;

using Kind = IommuChange::Kind;

/// Tells a listener the same of every mapping, and returns the first failure.  After one no more is mapped;
/// what is to be unmapped is, as far as that goes.  `done`: those that succeeded.
Status tell_all(IommuListener& listener, Kind kind, std::span<const IommuMapping> mappings,
                std::vector<IommuMapping>& done) {
  Status first;
  while (!mappings.empty() && (first || kind == Kind::unmap)) {
    const auto slice = mappings.first(std::min(kSlice, mappings.size()));
    mappings = mappings.subspan(slice.size());
    std::vector<IommuChange> changes;
    for (const auto& mapping : slice)
      changes.push_back({.kind = kind, .mapping = mapping, .result = {}});
    listener.change(changes);
    for (auto& change : changes) {
      if (change.result)
        done.push_back(change.mapping);
      else if (first)
        first = std::move(change.result);
    }
  }
  return first;
}

/// Takes back what a listener has mapped; what fails here was said by the device's side.
void take_back(IommuListener& listener, std::span<const IommuMapping> mappings) {
  for (const auto& mapping : mappings) {
    IommuChange change{.kind = Kind::unmap, .mapping = mapping, .result = {}};
    listener.change({&change, 1});
    if (!change.result) log::debug("{}", change.result.error().to_string());
  }
}

}  // namespace

const std::shared_ptr<const vmstate::Description>& IommuState::description() {
  static const auto domain =
      vmstate::Describe<Domain>("handover-viommu/domain", 1)
          .field("id", &Domain::id)
          .field("bytes", &Domain::bytes)
          .sized_buffer("mappings", &Domain::mappings, &Domain::bytes, kMostMappingBytes)
          .done();
  static const auto endpoint = vmstate::Describe<Endpoint>("handover-viommu/endpoint", 1)
                                   .field("id", &Endpoint::id)
                                   .field("domain", &Endpoint::domain)
                                   .done();
  static const auto all = vmstate::Describe<IommuState>("handover-viommu/state", 1)
                              .field("domain_count", &IommuState::domain_count)
                              .sized_array("domains", &IommuState::domains, &IommuState::domain_count,
                                           VirtualIommu::kMaxEndpoints, domain)
                              .field("endpoint_count", &IommuState::endpoint_count)
                              .sized_array("endpoints", &IommuState::endpoints, &IommuState::endpoint_count,
                                           VirtualIommu::kMaxEndpoints, endpoint)
                              .done();
  return all;
}

void VirtualIommu::add_endpoint(std::uint32_t id, IommuListener& listener) {
  endpoints_[id] = {.listener = &listener};
}

void VirtualIommu::remove_endpoint(std::uint32_t id) {
  const auto place = endpoints_.find(id);
  if (place == endpoints_.end()) return;
  const auto endpoint = place->second;
  endpoints_.erase(place);
  if (endpoint.attached) drop_if_unused(endpoint.domain);
}

void VirtualIommu::drop_if_unused(std::uint32_t domain) {
  for (const auto& [id, endpoint] : endpoints_)
    if (endpoint.attached && endpoint.domain == domain) return;
  const auto place = domains_.find(domain);
  if (place == domains_.end()) return;
  mappings_ -= place->second.size();
  domains_.erase(place);
}

Status VirtualIommu::attach(std::uint32_t id, std::uint32_t domain) {
  const auto place = endpoints_.find(id);
  if (place == endpoints_.end())
    return fail(Errc::not_found, "there is no device {:#x} behind the IOMMU", id);
  auto& endpoint = place->second;
  if (endpoint.attached && endpoint.domain == domain) return {};
  if (endpoint.attached) HANDOVER_TRY(detach(id));
  const auto mappings = domains_[domain].all();
  std::vector<IommuMapping> done;
  if (auto told = tell_all(*endpoint.listener, Kind::map, mappings, done); !told) {
    take_back(*endpoint.listener, done);
    drop_if_unused(domain);
    return told;
  }
  endpoint.attached = true;
  endpoint.domain = domain;
  return {};
}

Status VirtualIommu::detach(std::uint32_t id) {
  const auto place = endpoints_.find(id);
  if (place == endpoints_.end())
    return fail(Errc::not_found, "there is no device {:#x} behind the IOMMU", id);
  auto& endpoint = place->second;
  if (!endpoint.attached) return {};
  endpoint.attached = false;
  const auto mappings = domains_[endpoint.domain].all();
  std::vector<IommuMapping> done;
  auto told = tell_all(*endpoint.listener, Kind::unmap, mappings, done);
  drop_if_unused(endpoint.domain);
  return told;
}

bool VirtualIommu::is_ram(Gpa at, std::uint64_t size) const {
  return std::ranges::any_of(memory_.ranges(), [&](const MemoryRange& range) {
    return at >= range.start && range_fits(at.value - range.start.value, size, range.size);
  });
}

Status VirtualIommu::check(const IommuRequest& request) const {
  const auto page = options_.page_sizes & (~options_.page_sizes + 1);
  const auto refuse = [&](const char* why) {
    return fail(Errc::invalid_argument, "{} [{:#x}, +{:#x}): {}",
                request.kind == Kind::map ? "mapping" : "unmapping", request.iova.value, request.size, why);
  };
  if (request.size == 0 ||
      !range_fits(request.iova.value, request.size, std::uint64_t{1} << options_.iova_bits))
    return refuse("it is empty, or beyond the IOMMU's address width");
  if (request.iova.value % page != 0 || request.size % page != 0)
    return refuse("it is not made of whole pages");
  if (request.kind == Kind::unmap) return {};
  if (request.flags == 0 || (request.flags & ~(kDmaRead | kDmaWrite)) != 0)
    return refuse("its permissions make no sense");
  if (request.target.value % page != 0) return refuse("its memory is not made of whole pages");
  if (!is_ram(request.target, request.size)) return refuse("what it maps is no RAM");
  return {};
}

// Tells every device of the domain; the result of a change is the first failure.
void VirtualIommu::tell(std::uint32_t domain, std::vector<IommuChange>& changes) {
  if (changes.empty()) return;
  std::vector<IommuListener*> listeners;
  for (const auto& [id, endpoint] : endpoints_)
    if (endpoint.attached && endpoint.domain == domain) listeners.push_back(endpoint.listener);
  std::vector<std::vector<IommuChange>> told;  // of each listener
  for (auto* listener : listeners) {
    auto mine = changes;
    for (auto& change : mine)
      change.result = {};
    listener->change(mine);
    told.push_back(std::move(mine));
  }
  for (const auto& mine : told)
    for (std::size_t k = 0; k < changes.size(); ++k)
      if (!mine[k].result && changes[k].result) changes[k].result = mine[k].result;
  for (std::size_t k = 0; k < changes.size(); ++k)
    if (changes[k].kind == Kind::map && !changes[k].result)
      for (std::size_t i = 0; i < listeners.size(); ++i)
        if (told[i][k].result) take_back(*listeners[i], {&changes[k].mapping, 1});
}

void VirtualIommu::change(std::uint32_t domain, std::span<IommuRequest> requests) {
  const auto place = domains_.find(domain);
  std::vector<IommuChange> changes;
  std::vector<std::size_t> request_of;  // of each change
  MappingTable untold;                  // what they map
  const auto tell_now = [&] {
    tell(domain, changes);
    for (std::size_t k = 0; k < changes.size(); ++k) {
      auto& change = changes[k];
      if (change.result) continue;
      if (change.kind == Kind::map) {
        place->second.remove(change.mapping.iova);
        --mappings_;
      }
      auto& result = requests[request_of[k]].result;
      if (result) result = std::move(change.result);
    }
    changes.clear();
    request_of.clear();
    untold.clear();
  };
  for (std::size_t i = 0; i < requests.size(); ++i) {
    auto& request = requests[i];
    request.result = check(request);
    if (place == domains_.end())
      request.result = fail(Errc::not_found, "nothing is attached to domain {} of the IOMMU", domain);
    if (!request.result) continue;
    auto& table = place->second;
    const IovaRange range{request.iova, request.size};
    // What an earlier one maps may yet be refused.
    if (const auto* next = untold.at_or_after(range.start); next && next->iova < range.start + range.size)
      tell_now();
    if (request.kind == Kind::map) {
      const IommuMapping mapping{request.iova, request.size, request.target, request.flags};
      if (mappings_ >= options_.max_mappings) {
        request.result = fail(Errc::limit, "the IOMMU has {} mappings, and no room for more", mappings());
      } else if (!table.add(mapping)) {
        request.result =
            fail(Errc::state, "[{:#x}, +{:#x}) is mapped already", request.iova.value, request.size);
      } else {
        ++mappings_;
        untold.add(mapping);
        changes.push_back({.kind = Kind::map, .mapping = mapping, .result = {}});
        request_of.push_back(i);
      }
      continue;
    }
    auto inside = table.inside(range);
    if (!inside) {
      request.result = fail(Errc::state, "{}", inside.error().to_string());
      continue;
    }
    for (const auto& mapping : *inside) {
      table.remove(mapping.iova);
      --mappings_;
      changes.push_back({.kind = Kind::unmap, .mapping = mapping, .result = {}});
      request_of.push_back(i);
    }
  }
  tell_now();
  HANDOVER_TRACE(viommu_change, domain, requests.size(), mappings());
}

IommuState VirtualIommu::state() const {
  IommuState state;
  for (const auto& [id, table] : domains_) {
    auto& domain = state.domains.emplace_back();
    domain.id = id;
    const auto mappings = table.all();
    domain.mappings.resize(mappings.size() * kMappingBytes);
    auto* at = domain.mappings.data();
    for (const auto& mapping : mappings)
      for (const auto word :
           {mapping.iova.value, mapping.size, mapping.target.value, std::uint64_t{mapping.flags}}) {
        store_be(at, word);
        at += sizeof word;
      }
    domain.bytes = static_cast<std::uint32_t>(domain.mappings.size());
  }
  for (const auto& [id, endpoint] : endpoints_)
    if (endpoint.attached) state.endpoints.push_back({id, endpoint.domain});
  state.domain_count = static_cast<std::uint32_t>(state.domains.size());
  state.endpoint_count = static_cast<std::uint32_t>(state.endpoints.size());
  return state;
}

// Its endpoints are attached already, so that the devices are told.
Status VirtualIommu::load_domain(const IommuState::Domain& domain) {
  if (domain.mappings.size() % kMappingBytes != 0)
    return fail(Errc::protocol, "the mappings of IOMMU domain {} have {} bytes", domain.id,
                domain.mappings.size());
  std::vector<IommuRequest> requests;
  for (std::size_t at = 0; at < domain.mappings.size(); at += kMappingBytes) {
    std::uint64_t words[kWords];
    for (std::size_t i = 0; i < kWords; ++i)
      words[i] = load_be<std::uint64_t>(domain.mappings.data() + at + i * sizeof words[0]);
    if (words[3] > (kDmaRead | kDmaWrite))
      return fail(Errc::protocol, "a mapping of IOMMU domain {} has permissions {:#x}", domain.id, words[3]);
    requests.push_back({.kind = Kind::map,
                        .iova = Iova{words[0]},
                        .size = words[1],
                        .target = Gpa{words[2]},
                        .flags = static_cast<std::uint32_t>(words[3]),
                        .result = {}});
    if (requests.size() < kSlice && at + kMappingBytes < domain.mappings.size()) continue;
    change(domain.id, requests);
    for (auto& request : requests)
      HANDOVER_TRY_CONTEXT(std::move(request.result), "IOMMU domain {}", domain.id);
    requests.clear();
  }
  return {};
}

Status VirtualIommu::load(const IommuState& state) {
  const auto detach_all = [&] {
    Status first;
    for (const auto& [id, endpoint] : endpoints_)
      if (auto gone = detach(id); !gone && first) first = std::move(gone);
    return first;
  };
  const auto take = [&]() -> Status {
    HANDOVER_TRY(detach_all());
    for (const auto& endpoint : state.endpoints) {
      if (std::ranges::find(state.domains, endpoint.domain, &IommuState::Domain::id) == state.domains.end())
        return fail(Errc::protocol, "device {:#x} is in IOMMU domain {}, which did not come", endpoint.id,
                    endpoint.domain);
      HANDOVER_TRY(attach(endpoint.id, endpoint.domain));
    }
    for (const auto& domain : state.domains)
      HANDOVER_TRY(load_domain(domain));
    return {};
  };
  auto taken = take();
  if (!taken)
    if (auto gone = detach_all(); !gone) log::warn("{}", gone.error().to_string());
  return taken;
}

}  // namespace handover::vfio
