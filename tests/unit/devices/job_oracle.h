#pragma once

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "unit/devices/accelerator_rig.h"

namespace handover::accelerator::test {

/// Makes random jobs and knows what each must do: plain memory on both sides and a loop over bytes.
class JobOracle {
 public:
  JobOracle(std::uint64_t seed, GuestRam& ram, std::uint64_t memory_size)
      : random_(seed), guest_(ram.bytes()), device_(memory_size) {
    for (std::size_t at = GuestRam::kData; at + 8 <= guest_.size(); at += 8)
      store_le(&guest_[at], random_());
    ram.copy_in(GuestRam::kData, std::span(guest_).subspan(GuestRam::kData));
  }

  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  std::mt19937_64& random() { return random_; }

  /// A new job, already done here.
  Descriptor next() {
    const std::uint64_t longest = below(8) == 0 ? 300 * KiB : 9000;
    Descriptor what =
        job(expected_.size() + 1000, static_cast<Operation>(1 + below(4)), 0, 0, below(longest));
    what.guest_address = GuestRam::kData + below(guest_.size() - GuestRam::kData - what.length);
    what.device_offset = below(device_.size() - what.length + 1);
    what.pattern = below(6) == 0 ? 0 : random_();
    switch (below(40)) {
      case 0:
        what.operation = below(2) == 0 ? 0 : 5;
        break;
      case 1:
        what.device_offset = device_.size() - what.length + 1;
        break;
      case 2:
        what.device_offset = ~std::uint64_t{0} - below(100);
        break;
      case 3:
        what.guest_address = ~std::uint64_t{0} - below(100);
        break;
      case 4:
        what.guest_address = GuestRam::kSize + below(1000);
        break;
      default:
        break;
    }
    perform(what);
    return what;
  }

  /// A hash over all of device memory, so that its record tells whether the content is right.
  Descriptor hash_all() {
    Descriptor what = job(expected_.size() + 1000, Operation::hash, 0, 0, device_.size());
    perform(what);
    return what;
  }

  void expect_records(const std::vector<CompletionRecord>& got) const {
    ASSERT_EQ(got.size(), expected_.size()) << "every job completes exactly once";
    for (std::size_t i = 0; i < got.size(); ++i) {
      SCOPED_TRACE(fmt::format("job {}", i));
      ASSERT_EQ(got[i].id, expected_[i].id);
      ASSERT_EQ(got[i].status, expected_[i].status);
      ASSERT_EQ(got[i].result, expected_[i].result);
      ASSERT_EQ(got[i].sequence, expected_[i].sequence);
    }
  }
  void expect_guest_memory(GuestRam& ram) const {
    const auto got = ram.bytes();
    EXPECT_TRUE(std::equal(got.begin() + GuestRam::kData, got.end(), guest_.begin() + GuestRam::kData));
  }

 private:
  void perform(const Descriptor& what) {
    CompletionRecord record{};
    record.id = what.id;
    record.sequence = static_cast<std::uint32_t>(expected_.size()) + 1;
    record.status = static_cast<std::uint32_t>(run(what, record.result));
    expected_.push_back(record);
  }

  JobStatus run(const Descriptor& what, std::uint64_t& result) {
    if (what.operation < 1 || what.operation > 4) return JobStatus::bad_operation;
    if (!range_fits(what.device_offset, what.length, device_.size())) return JobStatus::out_of_range;
    const auto operation = static_cast<Operation>(what.operation);
    const bool guest = operation == Operation::copy_in || operation == Operation::copy_out;
    if (guest && what.length != 0 && !range_fits(what.guest_address, what.length, guest_.size()))
      return JobStatus::dma_fault;
    std::byte* device = device_.data() + what.device_offset;
    switch (operation) {
      case Operation::copy_in:
        std::copy_n(&guest_[0] + what.guest_address, what.length, device);
        break;
      case Operation::copy_out:
        std::copy_n(device, what.length, &guest_[0] + what.guest_address);
        break;
      case Operation::fill:
        for (std::uint64_t i = 0; i < what.length; ++i)
          device[i] = static_cast<std::byte>(what.pattern >> i % 8 * 8);
        break;
      case Operation::hash:
        result = XXH3_64bits(device, what.length);
        break;
    }
    return JobStatus::ok;
  }

  std::mt19937_64 random_;
  std::vector<std::byte> guest_;
  std::vector<std::byte> device_;
  std::vector<CompletionRecord> expected_;
};

}  // namespace handover::accelerator::test
