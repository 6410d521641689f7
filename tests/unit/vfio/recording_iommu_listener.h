#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "handover/vfio/virtual_iommu.h"

namespace handover::test {

/// A device behind an IOMMU that keeps what it was told, refuses on demand, and fails the test when it is
/// told what makes no sense: a mapping over another, or to let go of what it does not have.
class RecordingIommuListener final : public vfio::IommuListener {
 public:
  void change(std::span<vfio::IommuChange> changes) override {
    batches.push_back(changes.size());
    for (auto& change : changes) {
      EXPECT_TRUE(change.result) << "a result was there before";
      ++told;
      const bool refused = told == refuse_number || (refuse && refuse(change));
      if (refused)
        change.result = std::unexpected(
            Error(refuse_with, fmt::format("the device refuses change {}", told), refuse_errno));
      if (change.kind == vfio::IommuChange::Kind::map) {
        if (!refused) {
          EXPECT_TRUE(table.add(change.mapping)) << "over another";
        }
        continue;
      }
      const auto* there = table.at(change.mapping.iova);
      EXPECT_TRUE(there && *there == change.mapping) << "it never had " << change.mapping.iova.value;
      // What a device does not let go of is of no more interest here.
      if (there && *there == change.mapping) table.remove(change.mapping.iova);
    }
  }

  std::vector<vfio::IommuMapping> mappings() const { return table.all(); }

  std::size_t refuse_number = 0;  ///< 1: the first change; 0: none
  std::function<bool(const vfio::IommuChange&)> refuse;
  Errc refuse_with = Errc::device;
  int refuse_errno = 0;
  std::size_t told = 0;
  std::vector<std::size_t> batches;
  vfio::MappingTable table;
};

}  // namespace handover::test
