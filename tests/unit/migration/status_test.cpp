#include "handover/migration/status.h"

#include <gtest/gtest.h>

#include <set>

namespace handover {
namespace {

using S = MigrationStatus;
constexpr S kAll[] = {S::none,    S::setup,  S::active,     S::pre_switchover, S::device,  S::completed,
                      S::failing, S::failed, S::cancelling, S::cancelled,      S::in_doubt};

TEST(MigrationStatus, EveryStatusHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (auto status : kAll)
    names.insert(to_string(status));
  EXPECT_EQ(names.size(), std::size(kAll));
  EXPECT_FALSE(names.contains("unknown"));
  EXPECT_TRUE(names.contains("pre-switchover"));
  EXPECT_TRUE(names.contains("in-doubt"));
}

TEST(MigrationStatus, OnlyEndsAreFinal) {
  const std::set<S> final{S::completed, S::failed, S::cancelled, S::in_doubt};
  for (auto status : kAll)
    EXPECT_EQ(is_final(status), final.contains(status)) << to_string(status);
}

}  // namespace
}  // namespace handover
