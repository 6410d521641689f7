#pragma once

#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "vmm/synthetic/content.h"
#include "vmm/synthetic/layout.h"

namespace handover::vmm::synthetic {

/// The tables of an accelerator's driver in guest memory.  Each record ends in a check over the rest, so that
/// a record which is stale or damaged is not taken for the truth about the device; zeros are no valid record.
///
/// Content of device memory: kind and generation, 0 when the driver never wrote it.
struct SlotRecord {
  std::uint32_t kind = 0;
  std::uint32_t generation = 0;
  std::uint64_t check = 0;
};
static_assert(sizeof(SlotRecord) == kSlotRecordBytes);

/// What a job is between.
enum class Purpose : std::uint32_t {
  own,        ///< device memory and guest memory
  to_peer,    ///< from device memory into the device's page of a peer's window
  from_peer,  ///< from there into the staging slot of device memory
  staged,     ///< a hash of the staging slot
  unmapped,   ///< from device memory to an address that the IOMMU does not know: must fault
};

/// A job under way, with what its part of device memory holds when the device comes to it.
struct JobRecord {
  std::uint64_t id = 0;
  std::uint32_t operation = 0;
  std::uint32_t slot = 0;
  std::uint32_t kind = 0;
  std::uint32_t generation = 0;
  std::uint32_t offset = 0;  ///< in the slot
  std::uint32_t length = 0;
  std::uint32_t archive = 0;  ///< COPY_OUT: the entry, and where in it
  std::uint32_t shift = 0;
  Purpose purpose = Purpose::own;
  std::uint32_t peer = 0;  ///< to_peer, from_peer: index of the other device
  std::uint64_t reserved = 0;
  std::uint64_t check = 0;
};
static_assert(sizeof(JobRecord) == kJobRecordBytes);

/// What COPY_OUT left in guest memory.
struct ArchiveRecord {
  std::uint32_t valid = 0;
  std::uint32_t slot = 0;
  std::uint32_t kind = 0;
  std::uint32_t generation = 0;
  std::uint16_t shift = 0;
  std::uint16_t reserved = 0;
  std::uint32_t offset_length = 0;  ///< 16 bits of offset in the slot, 16 of length - 1
  std::uint64_t check = 0;

  std::uint32_t offset() const { return offset_length >> 16; }
  std::uint32_t length() const { return (offset_length & 0xffff) + 1; }
  static std::uint32_t pack(std::uint32_t offset, std::uint32_t length) {
    return offset << 16 | (length - 1);
  }
};
static_assert(sizeof(ArchiveRecord) == kArchiveRecordBytes && kSlotBytes == 65536);

/// What the device has put into its page of a peer's window, or what it has fetched into its staging slot: a
/// page of what one of its own slots held.
struct PeerRecord {
  std::uint32_t valid = 0;  ///< 0: nothing is known, or a job is about to change it
  std::uint32_t slot = 0;
  std::uint32_t kind = 0;
  std::uint32_t generation = 0;
  std::uint32_t offset = 0;  ///< in the slot
  std::uint32_t reserved = 0;
  std::uint64_t check = 0;
};
static_assert(sizeof(PeerRecord) == kPeerRecordBytes);

/// The check of a record at its place; `salt` is the guest's seed.
template <class Record>
std::uint64_t record_check(const Record& record, std::uint64_t salt, std::uint64_t place) {
  static_assert(std::is_trivially_copyable_v<Record> && sizeof(Record) % 8 == 0);
  std::uint64_t words[sizeof(Record) / 8];
  std::memcpy(words, &record, sizeof record);
  std::uint64_t sum = mix(salt, place);
  for (std::size_t i = 0; i + 1 < std::size(words); ++i)
    sum = mix(sum, words[i]);
  return sum;
}

}  // namespace handover::vmm::synthetic
