#include <array>

#include "vmm/synthetic/accelerator_driver.h"

// Jobs between a device's memory and the windows of its peers.

namespace handover::vmm::synthetic {

using accelerator::CompletionRecord;
using accelerator::JobStatus;
using accelerator::Operation;

namespace {

/// Where P2P is off a try now and then is enough.
constexpr std::uint64_t kHopelessEvery = 1'000'000'000;

}  // namespace

Gpa AcceleratorDriver::peer_page(std::uint32_t peer) const {
  return Gpa{context_.registers.devices[peer].window_bar + (kWindowPages + index_) * kPageSize};
}

bool AcceleratorDriver::peer_gone(std::uint32_t peer) const {
  AcceleratorDriver other(context_, peer);
  return !other.running() || other.gone();
}

std::optional<std::uint32_t> AcceleratorDriver::choose_peer() {
  const std::uint32_t count = context_.registers.device_count;
  if (count < 2 || index_ >= kPeerPages) return std::nullopt;
  const auto distance = static_cast<std::uint32_t>(1 + context_.registers.next_random() % (count - 1));
  const std::uint32_t peer = (index_ + distance) % count;
  const auto& other = context_.registers.devices[peer];
  if (other.state != DeviceRegisters::kRunning || other.window_bar == 0) return std::nullopt;
  return peer;
}

Result<bool> AcceleratorDriver::submit_to_peers() {
  if (peer_busy()) return false;
  const auto peer = choose_peer();
  if (!peer) return false;
  const std::uint64_t choice = context_.registers.next_random() % 8;
  if (!context_.registers.p2p) {
    if (context_.registers.clock - device_.peer_tried < kHopelessEvery) return false;
    HANDOVER_TRY(choice % 2 == 0 || !has_staging() ? submit_put(*peer) : submit_fetch(*peer));
    return true;
  }
  if (choice == 0) return submit_staged_hash();
  HANDOVER_ASSIGN(const auto there,
                  load_record<PeerRecord>(peer_record(*peer), "the record of a peer's page"));
  // What was never put there cannot be told when it is fetched.
  const bool fetch = choice < 4 && there.valid != 0 && has_staging();
  HANDOVER_TRY(fetch ? submit_fetch(*peer) : submit_put(*peer));
  return true;
}

Status AcceleratorDriver::submit_put(std::uint32_t peer) {
  const auto slot = static_cast<std::uint32_t>(context_.registers.next_random() % slot_count());
  HANDOVER_ASSIGN(const auto record, load_record<SlotRecord>(slot_record(slot), "the record of a slot"));
  if (record.generation == 0) return submit_write(slot, Operation::copy_in);
  JobRecord job;
  job.operation = static_cast<std::uint32_t>(Operation::copy_out);
  job.purpose = Purpose::to_peer;
  job.peer = peer;
  job.slot = slot;
  job.kind = record.kind;
  job.generation = record.generation;
  job.offset = static_cast<std::uint32_t>(context_.registers.next_random() % (slot_bytes() - kPageSize + 1));
  job.length = kPageSize;
  store_record(peer_record(peer), PeerRecord{});
  put_job(job);
  return {};
}

Status AcceleratorDriver::submit_fetch(std::uint32_t peer) {
  HANDOVER_ASSIGN(const auto there,
                  load_record<PeerRecord>(peer_record(peer), "the record of a peer's page"));
  JobRecord job;
  job.operation = static_cast<std::uint32_t>(Operation::copy_in);
  job.purpose = Purpose::from_peer;
  job.peer = peer;
  job.slot = there.slot;
  job.kind = there.kind;
  job.generation = there.generation;
  job.offset = there.offset;
  job.length = kPageSize;
  store_record(peer_record(kStaging), PeerRecord{});
  put_job(job);
  return {};
}

Result<bool> AcceleratorDriver::submit_staged_hash() {
  HANDOVER_ASSIGN(const auto staged, load_record<PeerRecord>(peer_record(kStaging), "the record of staging"));
  if (staged.valid == 0) return false;
  JobRecord job;
  job.operation = static_cast<std::uint32_t>(Operation::hash);
  job.purpose = Purpose::staged;
  job.slot = staged.slot;
  job.kind = staged.kind;
  job.generation = staged.generation;
  job.offset = staged.offset;
  job.length = kPageSize;
  put_job(job);
  return true;
}

Status AcceleratorDriver::judge_peer(const CompletionRecord& record, const JobRecord& job) {
  const bool ok = record.status == static_cast<std::uint32_t>(JobStatus::ok);
  const bool fault = record.status == static_cast<std::uint32_t>(JobStatus::dma_fault);
  const std::string what =
      fmt::format("completion {} of a copy {} accelerator {} at guest address {:#x}", device_.completed,
                  job.purpose == Purpose::to_peer ? "to" : "from", job.peer, peer_page(job.peer).value);
  if (fault && (!context_.registers.p2p || peer_gone(job.peer))) {
    ++context_.registers.p2p_faults;
    return {};
  }
  if (!ok) return wrong(fmt::format("{}: expected status 0, got {}", what, record.status));
  if (!context_.registers.p2p)
    return wrong(fmt::format("{}: it reached its peer, and this platform has no peer to peer", what));
  ++context_.registers.p2p_jobs;
  const PeerRecord now{.valid = 1,
                       .slot = job.slot,
                       .kind = job.kind,
                       .generation = job.generation,
                       .offset = job.offset,
                       .reserved = 0,
                       .check = 0};
  if (job.purpose == Purpose::from_peer) {
    store_record(peer_record(kStaging), now);
    return {};
  }
  store_record(peer_record(job.peer), now);
  return check_peer(job.peer);
}

Status AcceleratorDriver::check_peer(std::uint32_t peer) {
  HANDOVER_ASSIGN(const auto there,
                  load_record<PeerRecord>(peer_record(peer), "the record of a peer's page"));
  if (there.valid == 0 || context_.registers.devices[peer].state != DeviceRegisters::kRunning) return {};
  std::array<std::byte, kPageSize> bytes;
  context_.bus.read(peer_page(peer), bytes);
  const auto different = compare(content(there.slot, there.kind, there.generation), there.offset, bytes);
  if (!different || peer_gone(peer)) return {};
  return wrong(
      fmt::format("the page that it wrote to accelerator {} at guest address {:#x} (slot {}, generation {}, "
                  "offset {:#x}): "
                  "at {:#x} expected {:#018x}, got {:#018x}",
                  peer, peer_page(peer).value, there.slot, there.generation, there.offset,
                  peer_page(peer).value + different->offset, different->expected, different->got));
}

}  // namespace handover::vmm::synthetic
