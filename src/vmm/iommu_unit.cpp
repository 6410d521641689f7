#include "vmm/iommu_unit.h"

#include <algorithm>
#include <bit>

#include "handover/base/trace.h"

namespace handover::vmm {

using iommu::Command;
using iommu::CommandStatus;
using iommu::Operation;
namespace reg = iommu::reg;

namespace {

/// Commands carried out at one go.
constexpr std::size_t kBatch = 64;

CommandStatus status_of(const Status& result) {
  if (result) return CommandStatus::ok;
  switch (result.error().code()) {
    case Errc::invalid_argument:
      return CommandStatus::invalid;
    case Errc::not_found:
      return CommandStatus::not_found;
    case Errc::state:
      return CommandStatus::conflict;
    case Errc::limit:
      return CommandStatus::no_space;
    default:
      // Servers say so when they have as many mappings as they can have.
      return result.error().sys_errno() == ENOSPC ? CommandStatus::no_space : CommandStatus::device;
  }
}

bool changes_mappings(const Command& command) {
  return command.operation == static_cast<std::uint32_t>(Operation::map) ||
         command.operation == static_cast<std::uint32_t>(Operation::unmap);
}

// The guest's bytes are little-endian; so is every host that this runs on.
static_assert(std::endian::native == std::endian::little);

}  // namespace

bool IommuUnit::State::ring_fits() const {
  return std::has_single_bit(entries) && entries >= 2 && entries <= iommu::kMaxRingEntries &&
         ring % sizeof(Command) == 0;
}

void IommuUnit::read(std::uint64_t offset, std::span<std::byte> to) {
  std::ranges::fill(to, std::byte{0xff});
  if ((to.size() != 4 && to.size() != 8) || offset % to.size() != 0) return;
  for (std::size_t at = 0; at < to.size(); at += sizeof(std::uint32_t))
    store_le(to.data() + at, load_register(offset + at));
}

void IommuUnit::write(std::uint64_t offset, std::span<const std::byte> from) {
  if ((from.size() != 4 && from.size() != 8) || offset % from.size() != 0) return;
  for (std::size_t at = 0; at < from.size(); at += sizeof(std::uint32_t))
    store_register(offset + at, load_le<std::uint32_t>(from.data() + at));
}

std::uint32_t IommuUnit::load_register(std::uint64_t offset) const {
  const auto& limits = iommu_.options();
  switch (offset) {
    case reg::kId:
      return iommu::kIdValue;
    case reg::kVersion:
      return 1;
    case reg::kIovaBits:
      return limits.iova_bits;
    case reg::kHead:
      return state_.head;
    case reg::kPageSizes:
      return static_cast<std::uint32_t>(limits.page_sizes);
    case reg::kPageSizes + 4:
      return static_cast<std::uint32_t>(limits.page_sizes >> 32);
    case reg::kRingAddress:
      return static_cast<std::uint32_t>(state_.ring);
    case reg::kRingAddress + 4:
      return static_cast<std::uint32_t>(state_.ring >> 32);
    case reg::kRingEntries:
      return state_.entries;
    case reg::kStatus:
      return state_.status;
    default:
      return 0;
  }
}

void IommuUnit::store_register(std::uint64_t offset, std::uint32_t value) {
  constexpr std::uint64_t kLow = 0xffffffff;
  switch (offset) {
    case reg::kRingAddress:
      state_.ring = (state_.ring & ~kLow) | value;
      break;
    case reg::kRingAddress + 4:
      state_.ring = (state_.ring & kLow) | std::uint64_t{value} << 32;
      break;
    case reg::kRingEntries:
      state_.entries = value;
      state_.head = 0;
      state_.status = state_.ring_fits() ? 0 : iommu::kStatusError;
      break;
    case reg::kTail:
      carry_out(value);
      break;
    default:
      break;
  }
}

void IommuUnit::carry_out(std::uint32_t tail) {
  if (!state_.ring_fits() || tail - state_.head > state_.entries) state_.status = iommu::kStatusError;
  while (state_.status == 0 && state_.head != tail) {
    std::vector<Command> commands(std::min<std::size_t>(tail - state_.head, kBatch));
    const auto place = [&](std::size_t i) {
      return Gpa{state_.ring + (state_.head + i) % state_.entries * sizeof(Command)};
    };
    bool there = true;
    for (std::size_t i = 0; i < commands.size(); ++i)
      there = there && memory_.read(place(i), std::as_writable_bytes(std::span(&commands[i], 1)));
    if (there) carry_out(commands);
    constexpr auto kStatusAt = offsetof(Command, status);
    for (std::size_t i = 0; i < commands.size(); ++i)
      there = there && memory_.write(place(i) + kStatusAt, std::as_bytes(std::span(&commands[i].status, 1)));
    if (!there) {
      state_.status = iommu::kStatusError;
      return;
    }
    state_.head += static_cast<std::uint32_t>(commands.size());
  }
}

// What follows each other and is of one domain is done together, so that devices are told at once.
void IommuUnit::carry_out(std::span<Command> commands) {
  while (!commands.empty()) {
    auto& first = commands.front();
    if (changes_mappings(first)) {
      const auto end = std::ranges::find_if(commands, [&](const Command& each) {
        return !changes_mappings(each) || each.domain != first.domain;
      });
      const auto count = static_cast<std::size_t>(end - commands.begin());
      change(commands.first(count));
      commands = commands.subspan(count);
      continue;
    }
    Status done;
    if (first.operation == static_cast<std::uint32_t>(Operation::attach))
      done = iommu_.attach(first.endpoint, first.domain);
    else if (first.operation == static_cast<std::uint32_t>(Operation::detach))
      done = iommu_.detach(first.endpoint);
    else
      done = fail(Errc::invalid_argument, "no such command");
    first.status = static_cast<std::uint32_t>(status_of(done));
    commands = commands.subspan(1);
  }
}

void IommuUnit::change(std::span<Command> commands) {
  std::vector<vfio::IommuRequest> requests;
  requests.reserve(commands.size());
  for (const auto& command : commands) {
    const bool map = command.operation == static_cast<std::uint32_t>(Operation::map);
    requests.push_back({.kind = map ? vfio::IommuChange::Kind::map : vfio::IommuChange::Kind::unmap,
                        .iova = Iova{command.iova},
                        .size = command.size,
                        .target = Gpa{command.target},
                        .flags = command.flags,
                        .result = {}});
  }
  iommu_.change(commands.front().domain, requests);
  for (std::size_t i = 0; i < commands.size(); ++i) {
    commands[i].status = static_cast<std::uint32_t>(status_of(requests[i].result));
    if (!requests[i].result)
      HANDOVER_TRACE(viommu_refused, commands[i].iova, commands[i].size, commands[i].status);
  }
}

const vmstate::Description* IommuUnit::description() const {
  static_assert(iommu::kRead == vfio::kDmaRead && iommu::kWrite == vfio::kDmaWrite);
  static const auto description =
      vmstate::Describe<State>("handover-viommu", 1)
          .field("ring", &State::ring)
          .field("entries", &State::entries)
          .field("head", &State::head)
          .field("status", &State::status)
          .structure("mappings", &State::mappings, vfio::IommuState::description())
          .done();
  return description.get();
}

Status IommuUnit::save_state(StreamWriter& out) {
  state_.mappings = iommu_.state();
  return StateItem::save_state(out);
}

Status IommuUnit::load_state(StreamReader& in, std::uint32_t version) {
  State loaded;
  HANDOVER_TRY(description()->load(&loaded, in, version));
  if (loaded.status == 0 && loaded.entries != 0 && !loaded.ring_fits())
    return fail(Errc::protocol, "the command ring of the guest's IOMMU has {} entries at {:#x}",
                loaded.entries, loaded.ring);
  HANDOVER_TRY_CONTEXT(iommu_.load(loaded.mappings), "the mappings of the guest's IOMMU");
  state_ = std::move(loaded);
  state_.mappings = {};
  return {};
}

}  // namespace handover::vmm
