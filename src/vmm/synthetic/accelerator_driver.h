#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vmm/address_space.h"
#include "vmm/synthetic/content.h"
#include "vmm/synthetic/device_records.h"
#include "vmm/synthetic/guest_ram.h"
#include "vmm/synthetic/iommu_driver.h"
#include "vmm/synthetic/layout.h"
#include "vmm/synthetic/pci_setup.h"
#include "vmm/synthetic/registers.h"

namespace handover::vmm::synthetic {

/// The guest's driver of one accelerator.
///
/// Device memory is cut into slots, and a table in guest memory says what each must hold.  Jobs copy fresh
/// content in, copy parts out and compare, fill, and hash and compare; they complete in order, and a
/// completion that is missing, doubled, foreign or wrong is a mismatch.  What COPY_OUT brought stays in an
/// archive that is read again later, so that memory which the device wrote and nobody sent is found out.
///
/// Behind an IOMMU the rings are mapped once and each job's buffer for as long as it is under way; after that
/// it is unmapped at once or in batches, in turns, and its IOVA is given to another buffer.  Now and then a
/// job goes where nothing is mapped any more, and must fault.
///
/// Where the platform has peer to peer, some jobs go between device memory and the window of another
/// accelerator: each device has a page of its own in every other's window, which it fills by DMA, and which
/// is compared by the CPU and fetched back by DMA.  Where the platform has none such jobs must fail.
///
/// A view over registers and guest memory, made anew when needed; it has no state of its own.
/// Errc::mismatch: the guest found something wrong.  A device that is gone is no failure: the driver forgets
/// it.
class AcceleratorDriver {
 public:
  struct Context {
    GuestRam ram;
    AddressSpace& bus;
    const Layout& layout;
    Registers& registers;
  };
  AcceleratorDriver(const Context& context, std::uint32_t index);

  /// Brings the device up; its DeviceRegisters exist and name the slot.
  Status set_up(PciSetup& pci);

  Status on_interrupt();
  /// Watchdogs: lost interrupts, jobs that never end, a device that is gone.
  Status poll();
  /// Submits jobs at the set rate.
  Status submit(std::uint64_t elapsed);

  bool running() const { return device_.state == DeviceRegisters::kRunning; }
  std::uint32_t outstanding() const {
    return static_cast<std::uint32_t>(device_.submitted - device_.completed);
  }

  /// A check of everything that the device must hold, some at a time.
  struct Verification {
    std::uint32_t stage = 0;
    std::uint32_t next_slot = 0;
    std::uint64_t slots_checked = 0;
    bool staging_asked = false;
    std::uint64_t waiting_since = 0;
  };
  /// True when all has been checked, or the device is gone.
  Result<bool> verify(Verification& progress);

 private:
  // Geometry of device memory: slots, of which the last is for staging unless it is the only one.
  std::uint64_t slot_bytes() const;
  std::uint32_t all_slots() const;
  std::uint32_t slot_count() const { return has_staging() ? all_slots() - 1 : all_slots(); }
  bool has_staging() const { return all_slots() > 1; }
  std::uint64_t slot_offset(std::uint32_t slot) const;
  std::uint64_t device_offset(const JobRecord& job) const;

  // Records in guest memory.
  template <class Record>
  Result<Record> load_record(Gpa at, const char* what) const;
  template <class Record>
  void store_record(Gpa at, Record record);
  Gpa slot_record(std::uint32_t slot) const {
    return area_ + DeviceArea::kSlotRecords + slot * kSlotRecordBytes;
  }
  Gpa job_record(std::uint64_t job) const {
    return area_ + DeviceArea::kJobs + job % kRingEntries * kJobRecordBytes;
  }
  Gpa archive_record(std::uint32_t entry) const {
    return area_ + DeviceArea::kArchiveRecords + entry * kArchiveRecordBytes;
  }
  Gpa window_record(std::uint32_t page) const {
    return area_ + DeviceArea::kWindowRecords + page * kSlotRecordBytes;
  }
  /// kStaging: of the staging slot.
  Gpa peer_record(std::uint32_t peer) const {
    return area_ + DeviceArea::kPeerRecords + peer * kPeerRecordBytes;
  }
  Gpa source(std::uint64_t job) const {
    return area_ + DeviceArea::kSources + job % kMaxInFlight * kSlotBytes;
  }
  Gpa archive(std::uint32_t entry) const { return area_ + DeviceArea::kArchive + entry * kSlotBytes; }

  // accelerator_iommu.cpp: what of memory the device reaches.
  /// False if the device is gone.
  Result<bool> set_up_rings();
  /// What the descriptor of a job has for its buffer; maps it, if need be, with the next flush.
  std::uint64_t reach(std::uint64_t number, const JobRecord& job, Gpa buffer);
  /// Carries out what was asked of the IOMMU; false if the device is gone.
  Result<bool> flush_iommu();
  /// Unmaps the buffers of the jobs before `end`, now or when enough have come together; false if the device
  /// is gone.
  Result<bool> forget_buffers(std::uint64_t end, bool now);
  std::uint64_t buffer_iova(std::uint64_t number) const;
  std::uint32_t domain() const { return index_ + 1; }

  // Ring.
  void put_job(JobRecord job);
  Status ring_doorbell();
  enum class Next { nothing, completion, foreign };
  Next peek(accelerator::CompletionRecord& record) const;
  Status complete_all();
  Status check_sense(const JobRecord& job) const;
  Status judge(const accelerator::CompletionRecord& record, const JobRecord& job);
  bool plausible(const accelerator::CompletionRecord& record, const JobRecord& job) const;
  std::uint64_t expected_hash(const JobRecord& job) const;
  Status take_archive(const JobRecord& job);

  // Jobs.
  Status submit_one();
  Status submit_write(std::uint32_t slot, accelerator::Operation operation);
  Status submit_read(std::uint32_t slot, accelerator::Operation operation, bool whole);
  Status submit_unmapped();
  Status check_archive(std::uint32_t entry);
  Content content(std::uint32_t slot, std::uint32_t kind, std::uint32_t generation) const;

  Status submit_hashes(Verification& progress);

  // Peers.
  static constexpr std::uint32_t kStaging = kMaxDevices;
  /// This device's page in the window of a peer.
  Gpa peer_page(std::uint32_t peer) const;
  std::optional<std::uint32_t> choose_peer();
  /// True if a job was submitted.
  Result<bool> submit_to_peers();
  Status submit_put(std::uint32_t peer);
  Status submit_fetch(std::uint32_t peer);
  /// False if nothing is known of the staging slot.
  Result<bool> submit_staged_hash();
  Status judge_peer(const accelerator::CompletionRecord& record, const JobRecord& job);
  Status check_peer(std::uint32_t peer);
  bool peer_gone(std::uint32_t peer) const;
  /// A job that touches a peer is under way; there is never more than one.
  bool peer_busy() const { return device_.peer_job > device_.completed; }

  // BAR 2.
  Status exercise_window();
  Status write_window(std::uint32_t page);
  Status check_window(std::uint32_t page);
  Content window_content(std::uint32_t page, std::uint32_t generation) const;

  std::uint32_t read32(std::uint64_t offset) {
    return context_.bus.load<std::uint32_t>(Gpa{device_.registers_bar + offset});
  }
  /// Reads the id register; true if the device is gone, which is then noted.
  bool gone();
  Status wrong(std::string what) const;
  std::uint64_t seed() const { return context_.registers.seed; }

  Context context_;
  IommuDriver iommu_;
  std::uint32_t index_;
  DeviceRegisters& device_;
  Gpa area_;
};

template <class Record>
Result<Record> AcceleratorDriver::load_record(Gpa at, const char* what) const {
  auto record = context_.ram.load<Record>(at);
  const std::uint64_t check = record_check(record, seed(), at.value);
  if (check != record.check)
    return fail(Errc::mismatch,
                "accelerator {}: {} at guest address {:#x}: expected the check {:#018x}, got {:#018x}",
                index_, what, at.value, check, record.check);
  return record;
}

template <class Record>
void AcceleratorDriver::store_record(Gpa at, Record record) {
  record.check = record_check(record, seed(), at.value);
  context_.ram.store(at, record);
}

}  // namespace handover::vmm::synthetic
