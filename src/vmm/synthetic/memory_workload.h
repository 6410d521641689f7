#pragma once

#include <cstdint>

#include "handover/base/result.h"
#include "vmm/synthetic/content.h"
#include "vmm/synthetic/guest_ram.h"
#include "vmm/synthetic/layout.h"
#include "vmm/synthetic/registers.h"

namespace handover::vmm::synthetic {

/// The part of the program that writes the working set and checks it.
///
/// A page's content follows from seed, page number and generation; the generation is in a table in RAM, and
/// registers keep a sum over the table.  So a page that is stale is told by the table, a table that is
/// stale by the registers.  Generation 0 is a page of zeros.
///
/// A failed check is Errc::mismatch and says what, where, expected and got.
class MemoryWorkload {
 public:
  MemoryWorkload(GuestRam ram, const Layout& layout, Registers& registers)
      : ram_(ram), layout_(layout), registers_(registers) {}

  bool filled() const { return registers_.fill_next == layout_.working_set_pages; }
  /// Writes up to `most` pages that were never written.
  void fill(std::uint64_t most);
  /// Writes up to `most` pages at random, as far as the rate allows.
  void write(std::uint64_t elapsed, std::uint64_t most);
  /// True if write() had to leave something for the next step.
  bool behind() const;

  Status check_random_page();
  /// These change nothing; also for a CPU that is paused.
  Status check_pages(std::uint64_t first, std::uint64_t count) const;
  /// The whole table against the registers.
  Status check_table() const;

 private:
  Content content(std::uint64_t page, std::uint32_t generation) const;
  void write_page(std::uint64_t page);
  Status check_page(std::uint64_t page) const;

  GuestRam ram_;
  const Layout& layout_;
  Registers& registers_;
};

}  // namespace handover::vmm::synthetic
