#include "handover/check/report.h"

#include <gmock/gmock.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

namespace handover::check {
namespace {

using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

Report some_report() {
  Report report;
  report.device = "vfio-user:/a<b>\"&\x1b[2J.sock";
  report.features = 7;
  report.dma_log = true;
  report.state = "kept: nothing has changed it";
  report.took = 1500ms;
  report.entries = {
      {{"arc.a.b", "a to b", "clause <1>"}, {Verdict::passed, ""}, 250ms},
      {{"arc.b.a", "b to a", "clause"},
       {Verdict::failed, "said \"no\" & <left>\nin two\x01 lines \xff"},
       1ms},
      {{"arc.c.a", "c to a", "clause"}, {Verdict::not_run, "needs --exclusive"}, 0ms},
      {{"arc.c.b", "c to b", "clause", true}, {Verdict::not_run, "needs --exclusive"}, 0ms},
      {{"load.x", "x", "clause", true}, {Verdict::warned, "took it"}, 2ms},
      {{"load.y", "y", "clause", true}, {Verdict::not_offered, "no y"}, 0ms},
      {{"load.z", "z", "clause", true}, {Verdict::passed, "3 bytes"}, 2ms},
  };
  return report;
}

TEST(Report, SummaryCounts) {
  EXPECT_EQ(summary(some_report()),
            "7 checks: 2 passed, 1 passed with a warning, 1 failed, 1 not offered, 2 not run; 1.5 s");
  EXPECT_EQ(summary({}), "0 checks: 0 failed; 0.0 s");
}

TEST(Report, IsGreenOnlyIfNothingFailedAndTheEndWasReached) {
  auto report = some_report();
  EXPECT_FALSE(report.green());
  report.entries[1].finding.verdict = Verdict::warned;
  EXPECT_TRUE(report.green());
  report.ended_early = "interrupted";
  EXPECT_FALSE(report.green());
}

TEST(Report, TableHasARowForEachGroupAndALineForWhatDidNotSimplyPass) {
  const auto table = to_table(some_report());
  for (const char* part : {
           "arc              1       0       1            0        2\n",
           "load             1       1       0            1        0\n",
           "    FAILED arc.b.a: said \"no\" & <left> in two  lines \xff\n",
           "    arc.c.a, arc.c.b: needs --exclusive\n",
           "    warning load.x: took it\n",
           "    load.z: 3 bytes\n",
           "0x7 (stop-copy, p2p, pre-copy), DMA log, no reset",
           "state of the device: kept",
       })
    EXPECT_THAT(table, HasSubstr(part));
  EXPECT_THAT(table, Not(HasSubstr("arc.a.b")));
  EXPECT_THAT(table, Not(HasSubstr("\x1b"))) << "a terminal must not obey a device";
}

TEST(Report, JsonHasEverything) {
  auto report = some_report();
  report.ended_early = "the device was lost";
  const auto json = nlohmann::json::parse(to_json(report));
  EXPECT_EQ(json["device"], report.device);
  EXPECT_EQ(json["migration-features"], 7);
  EXPECT_EQ(json["green"], false);
  EXPECT_EQ(json["ended-early"], "the device was lost");
  EXPECT_EQ(
      json["summary"],
      (nlohmann::json{{"passed", 2}, {"warned", 1}, {"failed", 1}, {"not-offered", 1}, {"not-run", 2}}));
  ASSERT_EQ(json["checks"].size(), 7u);
  EXPECT_EQ(json["checks"][0]["id"], "arc.a.b");
  EXPECT_EQ(json["checks"][0]["group"], "arc");
  EXPECT_EQ(json["checks"][0]["result"], "passed");
  EXPECT_EQ(json["checks"][0]["clause"], "clause <1>");
  EXPECT_EQ(json["checks"][0]["seconds"], 0.25);
  EXPECT_FALSE(json["checks"][0].contains("why"));
  EXPECT_THAT(json["checks"][1]["why"].get<std::string>(), HasSubstr("said \"no\""));
  EXPECT_EQ(json["checks"][5]["result"], "not-offered");
  EXPECT_EQ(json["checks"][6]["exclusive"], true);
}

TEST(Report, JunitIsEscapedAndCounts) {
  const auto xml = to_junit(some_report());
  for (
      const char* part : {
          R"(<?xml version="1.0" encoding="UTF-8"?>)",
          R"(<testsuites name="handover check vfio-user:/a&lt;b&gt;&quot;&amp;?[2J.sock" tests="7" failures="1")",
          R"(<testsuite name="arc" tests="4" failures="1" errors="0" skipped="2" time="0.251000">)",
          R"(<testcase classname="handover.check.arc" name="arc.a.b" time="0.250000">)",
          R"(<failure message="said &quot;no&quot; &amp; &lt;left&gt;&#10;in two? lines ?">b to a)",
          R"(<skipped message="not run: needs --exclusive"/>)",
          R"(<skipped message="not offered: no y"/>)",
          R"(<system-out>warning: took it</system-out>)",
      })
    EXPECT_THAT(xml, HasSubstr(part));
}

TEST(Report, JunitShowsThatTheEndWasNotReached) {
  auto report = some_report();
  report.ended_early = "the device was lost in arc.b.a: \"gone\"";
  const auto xml = to_junit(report);
  EXPECT_THAT(xml, HasSubstr(R"(tests="8" failures="1" errors="1")"));
  EXPECT_THAT(xml, HasSubstr(R"(<error message="the device was lost in arc.b.a: &quot;gone&quot;"/>)"));
}

TEST(Catalogue, IdsAreUniqueAndEveryCheckSaysWhatItRestsOn) {
  std::set<std::string> ids;
  for (const auto& check : catalogue()) {
    EXPECT_TRUE(ids.insert(check.id).second) << check.id;
    EXPECT_EQ(check.id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-"), std::string::npos)
        << check.id;
    EXPECT_FALSE(check.what.empty()) << check.id;
    EXPECT_THAT(check.clause, HasSubstr("VFIO uAPI")) << check.id;
  }
}

TEST(Catalogue, IsInTheDocumentationAsItIs) {
  std::ifstream in(HANDOVER_TEST_DATA "/../../docs/check.md");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  ASSERT_FALSE(text.empty());
  EXPECT_THAT(text, HasSubstr(to_markdown(catalogue())))
      << "`handover check --list` prints what must be there";
  // And nothing is left of checks that are gone.
  const auto all = catalogue();
  std::size_t rows = 0;
  for (auto at = text.find("\n| `"); at != std::string::npos; at = text.find("\n| `", at + 1))
    rows += text.compare(at, 6, "\n| `--") != 0 ? 1u : 0u;  // an option
  EXPECT_EQ(rows, all.size());
}

}  // namespace
}  // namespace handover::check
