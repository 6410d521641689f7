// Every check sees the device that is wrong in what it checks, and hardly any other check does.

#include <gmock/gmock.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "unit/check/defects.h"

namespace handover::check {
namespace {

using testing::IsEmpty;

std::vector<Defect> all_defects() {
  std::vector<Defect> all;
  for (auto* part : {defects_of_states, defects_of_streams, defects_of_loads, defects_of_logs})
    std::ranges::move(part(), std::back_inserter(all));
  return all;
}

bool may_see(const Defect& defect, const std::string& id) {
  return id == defect.id ||
         std::ranges::any_of(defect.also, [&](const std::string& begin) { return id.starts_with(begin); });
}

TEST(Defects, EveryCheckHasOne) {
  std::set<std::string> checked, listed;
  for (const auto& defect : all_defects())
    checked.insert(defect.id);
  for (const auto& check : catalogue())
    listed.insert(check.id);
  EXPECT_EQ(checked, listed);
}

class DefectsOf : public testing::TestWithParam<std::vector<Defect> (*)()> {};

TEST_P(DefectsOf, AreSeenByTheirCheckAndNotByOthers) {
  for (const auto& defect : GetParam()()) {
    SCOPED_TRACE(defect.id + ": a device that " + defect.what);
    CheckedDevice checked(defect.features);
    defect.install(checked);
    Options options{.exclusive = true, .kernel_log_rules = defect.kernel_log_rules, .max_state = 4 * MiB};
    if (defect.own_group) options.only = {defect.id.substr(0, defect.id.find('.'))};
    if (defect.broad) options.only = {defect.id};
    const auto report = checked.run(options);
    const auto* seen = find_entry(report, defect.id);
    ASSERT_NE(seen, nullptr);
    EXPECT_EQ(seen->finding.verdict, Verdict::failed) << seen->finding.why;
    EXPECT_FALSE(seen->finding.why.empty());
    EXPECT_FALSE(report.green());
    for (const auto& entry : report.entries) {
      if (entry.finding.verdict != Verdict::failed) continue;
      EXPECT_TRUE(may_see(defect, entry.check.id)) << entry.check.id << ": " << entry.finding.why;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, DefectsOf,
                         testing::Values(defects_of_states, defects_of_streams, defects_of_loads,
                                         defects_of_logs));

// A check names the states that it is about.
bool is_offered(const std::string& id, std::uint64_t features) {
  if (id.ends_with(".lacking") && features == 7) return false;
  if ((id.starts_with("info.") || id == "size.initial") && !(features & vfio::kMigrationPreCopy))
    return false;
  std::istringstream words(id);
  for (std::string word; std::getline(words, word, '.');)
    for (std::uint32_t number = 0; number < vfio::kDeviceStateCount; ++number)
      if (const auto state = *vfio::device_state_from(number);
          vfio::to_string(state) == word && !vfio::state_exists(state, features))
        return false;
  return true;
}

class Features : public testing::TestWithParam<std::uint64_t> {};

TEST_P(Features, ASoundDeviceIsGreen) {
  CheckedDevice checked(GetParam());
  const auto report = checked.run({.exclusive = true});
  EXPECT_TRUE(report.green());
  EXPECT_THAT(with_verdict(report, Verdict::failed), IsEmpty());
  EXPECT_THAT(with_verdict(report, Verdict::warned), IsEmpty());
  EXPECT_EQ(report.entries.size(), catalogue().size());
  // Only what nothing can make an idle device do.
  const auto not_run = with_verdict(report, Verdict::not_run);
  ASSERT_EQ(not_run.size(), 1u);
  EXPECT_TRUE(not_run[0].starts_with("log.content")) << not_run[0];
  for (const auto& entry : report.entries)
    EXPECT_EQ(entry.finding.verdict != Verdict::not_offered, is_offered(entry.check.id, GetParam()))
        << entry.check.id << ": " << entry.finding.why;
}

INSTANTIATE_TEST_SUITE_P(All, Features, testing::Values(1, 3, 5, 7));

}  // namespace
}  // namespace handover::check
