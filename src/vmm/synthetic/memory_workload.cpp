#include "vmm/synthetic/memory_workload.h"

#include <algorithm>

namespace handover::vmm::synthetic {
namespace {

constexpr std::uint64_t kDomain = 0x50414745;  // keeps these contents apart from the devices'
constexpr std::uint64_t kPageCost = kPageSize * 1'000'000'000;

// Wraps around; order does not matter, so one page more or less is one addition.
std::uint64_t table_term(std::uint64_t page, std::uint32_t generation) {
  return generation == 0 ? 0 : mix(page, generation);
}

// What can be caught up with after a step that came late: 50 ms.
std::uint64_t credit_limit(std::uint64_t rate) {
  return std::max(rate / 20, 64 * kPageSize) * 1'000'000'000;
}

}  // namespace

Content MemoryWorkload::content(std::uint64_t page, std::uint32_t generation) const {
  if (generation == 0) return {};
  return {Content::Kind::varied, mix(registers_.seed, kDomain, page, generation)};
}

void MemoryWorkload::write_page(std::uint64_t page) {
  const Gpa entry = layout_.table_entry(page);
  const auto before = ram_.load<std::uint32_t>(entry);
  const std::uint32_t after = before + 1 == 0 ? 1 : before + 1;
  const Gpa at = layout_.page(page);
  generate(content(page, after), 0, ram_.view(at, kPageSize));
  ram_.written(at, kPageSize);
  ram_.store(entry, after);
  registers_.table_sum += table_term(page, after) - table_term(page, before);
  ++registers_.pages_written;
}

void MemoryWorkload::fill(std::uint64_t most) {
  const std::uint64_t end = std::min(layout_.working_set_pages, registers_.fill_next + most);
  while (registers_.fill_next < end)
    write_page(registers_.fill_next++);
}

void MemoryWorkload::write(std::uint64_t elapsed, std::uint64_t most) {
  const std::uint64_t rate = std::min(registers_.dirty_rate, std::uint64_t{100} * GiB);
  if (rate == 0) return;
  const std::uint64_t limit = credit_limit(std::min(rate, std::uint64_t{100} * GiB));
  // The clock moves at most 100 ms a step: no overflow up to 100 GiB/s.
  registers_.write_credit =
      std::min(limit, registers_.write_credit + rate * std::min<std::uint64_t>(elapsed, 50'000'000));
  while (most-- > 0 && registers_.write_credit >= kPageCost) {
    registers_.write_credit -= kPageCost;
    write_page(registers_.next_random() % layout_.working_set_pages);
  }
}

bool MemoryWorkload::behind() const {
  return registers_.dirty_rate > 0 && registers_.write_credit >= kPageCost;
}

Status MemoryWorkload::check_page(std::uint64_t page) const {
  const auto generation = ram_.load<std::uint32_t>(layout_.table_entry(page));
  const Gpa at = layout_.page(page);
  const auto different = compare(content(page, generation), 0, ram_.view(at, kPageSize));
  if (!different) return {};
  return fail(
      Errc::mismatch,
      "page {} of the working set (generation {}) at guest address {:#x}: expected {:#018x}, got {:#018x}",
      page, generation, at.value + different->offset, different->expected, different->got);
}

Status MemoryWorkload::check_random_page() {
  ++registers_.pages_checked;
  return check_page(registers_.next_random() % layout_.working_set_pages);
}

Status MemoryWorkload::check_pages(std::uint64_t first, std::uint64_t count) const {
  const std::uint64_t end = std::min(layout_.working_set_pages, first + count);
  for (std::uint64_t page = first; page < end; ++page)
    HANDOVER_TRY(check_page(page));
  return {};
}

Status MemoryWorkload::check_table() const {
  std::uint64_t sum = 0;
  const auto table = ram_.view(layout_.table_entry(0), layout_.working_set_pages * sizeof(std::uint32_t));
  {
    const GuestRace race;
    for (std::uint64_t page = 0; page < layout_.working_set_pages; ++page) {
      std::uint32_t generation;
      std::memcpy(&generation, table.data() + page * sizeof generation, sizeof generation);
      sum += table_term(page, generation);
    }
  }
  if (sum == registers_.table_sum) return {};
  return fail(
      Errc::mismatch,
      "the sum over the table of page generations at guest address {:#x}: expected {:#018x}, got {:#018x}",
      layout_.table_entry(0).value, registers_.table_sum, sum);
}

}  // namespace handover::vmm::synthetic
