#include "vmm/peer_mappings.h"

#include <algorithm>
#include <limits>

#include "handover/base/log.h"
#include "handover/base/trace.h"

namespace handover::vmm {
namespace {

bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
  return a < b ? b - a < a_size : a - b < b_size;
}

}  // namespace

bool PeerMappings::Mapped::same_as(const Mapped& other) const {
  return owner == other.owner && area.at == other.area.at && area.bytes == other.area.bytes;
}

void PeerMappings::join(vfio::Device& device) {
  std::lock_guard lock(mutex_);
  members_.push_back({.number = next_number_++, .device = &device, .areas = {}, .mapped = {}});
}

void PeerMappings::publish(vfio::Device& device, std::vector<Area> areas) {
  std::lock_guard lock(mutex_);
  const auto member =
      std::ranges::find_if(members_, [&](const auto& each) { return each.device == &device; });
  if (member != members_.end()) member->areas = std::move(areas);
}

bool PeerMappings::over_ram(const Area& area) const {
  return std::ranges::any_of(memory_.ranges(), [&](const MemoryRange& range) {
    return overlap(area.at.value, area.bytes->size(), range.start.value, range.size);
  });
}

// Under the lock: every area that answers on the bus, with its owner.
std::vector<PeerMappings::Mapped> PeerMappings::visible() const {
  std::vector<Mapped> all;
  for (const auto& member : members_)
    for (const auto& area : member.areas) {
      const auto size = area.bytes->size();
      const bool wraps = size > std::numeric_limits<std::uint64_t>::max() - area.at.value;
      const bool covered = std::ranges::any_of(all, [&](const Mapped& other) {
        return overlap(area.at.value, size, other.area.at.value, other.area.bytes->size());
      });
      if (!wraps && !covered && !over_ram(area)) all.push_back({member.number, area});
    }
  return all;
}

// Under the lock.  What goes comes first: the next one may need its place.
std::vector<PeerMappings::Step> PeerMappings::plan() const {
  std::vector<Step> gone;
  std::vector<Step> fresh;
  const auto all = visible();
  for (const auto& member : members_) {
    if (member.device->lost()) continue;
    const auto wanted = [&](const Mapped& mapped) {
      return mapped.owner != member.number &&
             std::ranges::any_of(all, [&](const Mapped& each) { return each.same_as(mapped); });
    };
    for (const auto& mapped : member.mapped)
      if (!wanted(mapped)) gone.push_back({member.number, member.device, mapped, false});
    for (const auto& each : all)
      if (each.owner != member.number &&
          std::ranges::none_of(member.mapped, [&](const Mapped& mapped) { return mapped.same_as(each); }))
        fresh.push_back({member.number, member.device, each, true});
  }
  gone.insert(gone.end(), fresh.begin(), fresh.end());
  return gone;
}

Status PeerMappings::perform(Step& step) {
  const Area& area = step.what.area;
  const auto size = area.bytes->size();
  Status status;
  if (step.map) {
    vfio::DmaMapping mapping;
    mapping.iova = Iova{area.at.value};  // no IOMMU: the device sees what the CPUs see
    mapping.size = size;
    mapping.flags = area.flags;
    mapping.fd = area.file.fd;
    mapping.offset = area.file.offset;
    mapping.host = area.bytes->data();
    mapping.keep = area.bytes;
    mapping.peer = true;
    status = step.device->dma_map(mapping);
  } else {
    status = step.device->dma_unmap({Iova{area.at.value}, size});
  }
  step.done = status.has_value();
  HANDOVER_TRACE(peer_mapping, step.device->id().c_str(), area.at.value, step.map ? size : 0,
                 step.done ? 1 : 0);
  if (step.done || step.device->lost()) return {};
  return std::unexpected(std::move(status).error().with_context(
      fmt::format("{} the memory of a peer at {:#x} {} device `{}`", step.map ? "mapping" : "unmapping",
                  area.at.value, step.map ? "for" : "from", step.device->id())));
}

// Under the lock.
void PeerMappings::settle(const std::vector<Step>& steps) {
  for (const auto& step : steps) {
    const auto member = std::ranges::find(members_, step.member, &Member::number);
    if (!step.done || member == members_.end()) continue;
    if (step.map)
      member->mapped.push_back(step.what);
    else
      std::erase_if(member->mapped, [&](const Mapped& mapped) { return mapped.same_as(step.what); });
  }
}

// Under the lock, which it leaves for device calls; busy_ is set.
Status PeerMappings::carry_out(std::unique_lock<std::mutex>& lock) {
  Status first;
  do {
    again_ = false;
    auto steps = plan();
    lock.unlock();
    for (auto& step : steps)
      if (auto done = perform(step); !done && first) first = std::move(done);
    lock.lock();
    settle(steps);
  } while (again_);
  return first;
}

Status PeerMappings::sync() {
  std::unique_lock lock(mutex_);
  if (busy_) {
    again_ = true;
    return {};
  }
  busy_ = true;
  auto done = carry_out(lock);
  busy_ = false;
  idle_.notify_all();
  return done;
}

void PeerMappings::leave(vfio::Device& device) {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return !busy_; });
  auto member = std::ranges::find(members_, &device, &Member::device);
  if (member == members_.end()) return;
  busy_ = true;
  member->areas.clear();
  if (auto done = carry_out(lock); !done) log::debug("{}", done.error().to_string());
  // Again: the members may have moved.
  member = std::ranges::find(members_, &device, &Member::device);
  const auto mapped = std::move(member->mapped);
  members_.erase(member);
  lock.unlock();
  for (const auto& each : mapped) {
    Step step{0, &device, each, false};
    if (device.lost()) break;
    if (auto done = perform(step); !done) log::debug("{}", done.error().to_string());
  }
  lock.lock();
  // Somebody may have left us work since the plan.
  if (again_)
    if (auto done = carry_out(lock); !done) log::warn("{}", done.error().to_string());
  busy_ = false;
  idle_.notify_all();
}

Status PeerMappings::prepare(RunState from, RunState to) {
  if (to != RunState::running) return {};
  auto done = sync();
  if (done) return {};
  // A guest that ran without it before can do so again; one that arrives is promised what it had.
  if (from == RunState::inmigrate) return done;
  log::warn("peer to peer DMA is not complete: {}", done.error().to_string());
  return {};
}

}  // namespace handover::vmm
