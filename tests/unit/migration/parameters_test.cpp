#include "handover/migration/parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace handover {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

std::string refusal(const json& changes) {
  Parameters parameters;
  const auto before = parameters;
  auto applied = apply_changes(parameters, changes);
  EXPECT_FALSE(applied) << changes;
  EXPECT_EQ(parameters, before) << changes;
  return applied ? "" : applied.error().to_string();
}

std::string capability_refusal(const json& changes) {
  Capabilities capabilities;
  const auto before = capabilities;
  auto applied = apply_changes(capabilities, changes);
  EXPECT_FALSE(applied) << changes;
  EXPECT_EQ(capabilities, before) << changes;
  return applied ? "" : applied.error().to_string();
}

TEST(Parameters, DefaultsAreQemus) {
  EXPECT_EQ(to_json(Parameters{}), json::parse(R"({"max-bandwidth": 134217728,
      "avail-switchover-bandwidth": 0, "downtime-limit": 300, "multifd-channels": 2, "direct-io": false,
      "max-queued-buffers-size": 67108864})"));
}

TEST(Parameters, AnySubsetIsTaken) {
  Parameters parameters;
  ASSERT_TRUE(apply_changes(parameters, {{"downtime-limit", 50}}));
  EXPECT_EQ(parameters.downtime_limit_ms, 50u);
  EXPECT_EQ(parameters.max_bandwidth, 128ull << 20);
  ASSERT_TRUE(apply_changes(parameters, {{"max-bandwidth", 0}, {"avail-switchover-bandwidth", 1u << 30}}));
  EXPECT_EQ(parameters.max_bandwidth, 0u);
  EXPECT_EQ(parameters.avail_switchover_bandwidth, 1u << 30);
  EXPECT_EQ(parameters.downtime_limit_ms, 50u);
  ASSERT_TRUE(apply_changes(parameters, json::object()));
}

TEST(Parameters, WhatIsPrintedCanBeApplied) {
  Parameters parameters{
      .max_bandwidth = ~0ull, .avail_switchover_bandwidth = 7, .downtime_limit_ms = 2'000'000};
  Parameters copy;
  ASSERT_TRUE(apply_changes(copy, to_json(parameters)));
  EXPECT_EQ(copy, parameters);
}

TEST(Parameters, OutOfRangeNamesTheRange) {
  EXPECT_THAT(refusal({{"downtime-limit", 2'000'001}}),
              AllOf(HasSubstr("downtime-limit"), HasSubstr("from 0 to 2000000 milliseconds")));
  EXPECT_THAT(refusal({{"downtime-limit", -1}}), HasSubstr("from 0 to 2000000"));
  EXPECT_THAT(refusal({{"max-bandwidth", -5}}), HasSubstr("max-bandwidth"));
}

TEST(Parameters, WrongTypesAreRefused) {
  EXPECT_THAT(refusal({{"max-bandwidth", "100M"}}), HasSubstr("whole number"));
  EXPECT_THAT(refusal({{"max-bandwidth", 1.5}}), HasSubstr("whole number"));
  EXPECT_THAT(refusal({{"max-bandwidth", nullptr}}), HasSubstr("whole number"));
  EXPECT_THAT(refusal({{"max-bandwidth", true}}), HasSubstr("whole number"));
  EXPECT_THAT(refusal(json::array()), HasSubstr("object"));
  EXPECT_THAT(refusal(json(3)), HasSubstr("object"));
}

TEST(Parameters, UnknownNamesAreAnsweredWithTheKnownOnes) {
  EXPECT_THAT(refusal({{"multifd-compression", "zstd"}}),
              AllOf(HasSubstr("multifd-compression"), HasSubstr("max-bandwidth"),
                    HasSubstr("avail-switchover-bandwidth"), HasSubstr("downtime-limit")));
  EXPECT_LT(refusal({{std::string(100'000, 'x'), 4}}).size(), 400u);
}

TEST(Parameters, OneBadValueLeavesAllUntouched) {
  refusal({{"avail-switchover-bandwidth", 5}, {"downtime-limit", -3}, {"max-bandwidth", 9}});
  refusal({{"avail-switchover-bandwidth", 5}, {"zzz", 1}});
}

TEST(Capabilities, ReturnPathIsOnByDefaultAndTheOthersOff) {
  EXPECT_EQ(to_json(Capabilities{}), json::parse(R"([{"capability": "events", "state": false},
      {"capability": "return-path", "state": true},
      {"capability": "pause-before-switchover", "state": false},
      {"capability": "multifd", "state": false}, {"capability": "switchover-ack", "state": false},
      {"capability": "mapped-ram", "state": false}])"));
}

TEST(Capabilities, AreSetAndPrintedInTheSameShape) {
  Capabilities capabilities;
  ASSERT_TRUE(apply_changes(capabilities, json::parse(R"([{"capability": "events", "state": true},
      {"capability": "return-path", "state": false}])")));
  EXPECT_TRUE(capabilities.events);
  EXPECT_FALSE(capabilities.return_path);
  Capabilities copy;
  ASSERT_TRUE(apply_changes(copy, to_json(capabilities)));
  EXPECT_EQ(copy, capabilities);
}

TEST(Parameters, FlagsAreTrueOrFalse) {
  Parameters parameters;
  ASSERT_TRUE(apply_changes(parameters, {{"direct-io", true}}));
  EXPECT_TRUE(parameters.direct_io);
  EXPECT_THAT(refusal({{"direct-io", 1}}), HasSubstr("true or false"));
  EXPECT_THAT(refusal({{"multifd-channels", 0}}), HasSubstr("from 1 to 255"));
  EXPECT_THAT(refusal({{"max-queued-buffers-size", 4096}}), HasSubstr("from 2097152"));
}

// A9: postcopy with such devices is not supported, and says so.
TEST(Capabilities, PostcopyIsRefusedWithItsReason) {
  EXPECT_THAT(capability_refusal(json::parse(R"([{"capability": "postcopy-ram", "state": true}])")),
              AllOf(HasSubstr("postcopy-ram"), HasSubstr("VFIO"), HasSubstr("DMA")));
  Capabilities capabilities;
  EXPECT_TRUE(
      apply_changes(capabilities, json::parse(R"([{"capability": "postcopy-ram", "state": false}])")));
}

TEST(Capabilities, AcknowledgementNeedsTheReturnPath) {
  EXPECT_THAT(capability_refusal(json::parse(R"([{"capability": "switchover-ack", "state": true},
      {"capability": "return-path", "state": false}])")),
              HasSubstr("return-path"));
}

TEST(Capabilities, BadListsAreRefusedAsAWhole) {
  EXPECT_THAT(capability_refusal(json::object()), HasSubstr("list"));
  EXPECT_THAT(capability_refusal(json::array({1})), HasSubstr("capability"));
  EXPECT_THAT(capability_refusal(json::parse(R"([{"capability": "events"}])")), HasSubstr("state"));
  EXPECT_THAT(capability_refusal(json::parse(R"([{"capability": 7, "state": true}])")), HasSubstr("state"));
  EXPECT_THAT(capability_refusal(json::parse(R"([{"capability": "events", "state": 1}])")),
              HasSubstr("true"));
  EXPECT_THAT(capability_refusal(json::parse(R"([{"capability": "events", "state": true},
      {"capability": "xbzrle", "state": true}])")),
              AllOf(HasSubstr("xbzrle"), HasSubstr("pause-before-switchover")));
}

}  // namespace
}  // namespace handover
