#include "control/migration_json.h"

#include <gtest/gtest.h>

namespace handover::control {
namespace {

using nlohmann::json;

Statistics sample(MigrationStatus status) {
  Statistics all;
  all.status = status;
  all.total_ms = 1500;
  all.setup_ms = 12;
  all.downtime_ms = 41.6;
  all.expected_downtime_ms = 99.4;
  all.transferred = 5000;
  all.remaining = 700;
  all.total_bytes = 1 << 30;
  all.throughput = 1e6;
  all.dirty_sync_count = 3;
  all.dirty_pages_rate = 17;
  all.items.resize(3);
  all.items[0] = {.name = "ram",
                  .section = "ram",
                  .setup_bytes = 100,
                  .precopy_bytes = 2000,
                  .downtime_bytes = 300,
                  .pending_bytes = 600,
                  .normal_pages = 40,
                  .zero_pages = 9};
  all.items[1] = {.name = "gpu0",
                  .section = "0000:00:02.0/vfio",
                  .setup_bytes = 1,
                  .precopy_bytes = 20,
                  .downtime_bytes = 300,
                  .pending_bytes = 100};
  all.items[2] = {.name = "nvme0",
                  .section = "0000:00:03.0/vfio",
                  .setup_bytes = 2,
                  .precopy_bytes = 30,
                  .downtime_bytes = 400};
  all.rounds = {{1, 50, 40, 10, 1000, 0.5}, {2, 5, 5, 0, 100, 0.0}};
  all.downtime_parts = {1, 2, 3, 4, 5, 6};
  all.dirty_tracking = {{"device `nic0`", "all", false, "it has no DMA log"}};
  return all;
}

TEST(QueryMigrate, IsEmptyBeforeAnyMigration) {
  EXPECT_EQ(query_migrate(Statistics{}), json::object());
  EXPECT_EQ(query_incoming(MigrationStatus::none, "", std::nullopt), json::object());
}

TEST(QueryMigrate, WhileRunningHasFiguresAndWhatIsExpected) {
  const auto object = query_migrate(sample(MigrationStatus::active));
  EXPECT_EQ(object["status"], "active");
  EXPECT_EQ(object["total-time"], 1500);
  EXPECT_EQ(object["setup-time"], 12);
  EXPECT_EQ(object["expected-downtime"], 99);
  EXPECT_EQ(object["remaining"], 700);
  EXPECT_FALSE(object.contains("downtime"));
  EXPECT_EQ(object["vfio"],
            json::parse(R"({"transferred": 753, "x-handover-dirty-tracking": [{"who": "device `nic0`",
                "tracker": "all", "pre-copy": false, "reason": "it has no DMA log"}]})"));
  EXPECT_EQ(object["ram"], json::parse(R"({"transferred": 5000, "remaining": 600, "total": 1073741824,
      "duplicate": 9, "normal": 40, "normal-bytes": 163840, "dirty-pages-rate": 17, "mbps": 8.0,
      "dirty-sync-count": 3, "postcopy-requests": 0, "page-size": 4096, "multifd-bytes": 0,
      "pages-per-second": 100, "precopy-bytes": 2100, "downtime-bytes": 300, "postcopy-bytes": 0,
      "dirty-sync-missed-zero-copy": 0})"));
}

TEST(QueryMigrate, CompletedHasTheDowntimeAndNoExpectation) {
  const auto object = query_migrate(sample(MigrationStatus::completed));
  EXPECT_EQ(object["downtime"], 42);
  EXPECT_FALSE(object.contains("expected-downtime"));
  EXPECT_FALSE(object.contains("remaining"));
  EXPECT_TRUE(object.contains("ram"));
}

TEST(QueryMigrate, FailedHasTheReasonAndNoFigures) {
  auto all = sample(MigrationStatus::failed);
  all.error = "cable cut";
  EXPECT_EQ(query_migrate(all), (json{{"status", "failed"}, {"error-desc", "cable cut"}}));
}

TEST(QueryMigrate, InDoubtSaysWhy) {
  auto all = sample(MigrationStatus::in_doubt);
  all.error = "no answer";
  const auto object = query_migrate(all);
  EXPECT_EQ(object["status"], "in-doubt");
  EXPECT_EQ(object["error-desc"], "no answer");
}

TEST(QueryMigrate, WithoutDevicesThereIsNoVfio) {
  auto all = sample(MigrationStatus::completed);
  all.items.resize(1);
  EXPECT_FALSE(query_migrate(all).contains("vfio"));
  all.items.clear();
  EXPECT_EQ(query_migrate(all)["ram"]["normal"], 0);
}

TEST(QueryMigrate, IncomingShowsWhereItListens) {
  const auto object = query_incoming(MigrationStatus::setup, "", *Address::parse("tcp:127.0.0.1:44"));
  EXPECT_EQ(object, json::parse(R"({"status": "setup",
      "socket-address": [{"type": "inet", "host": "127.0.0.1", "port": "44"}]})"));
}

TEST(FullReport, HasEveryRoundItemAndPartOfTheDowntime) {
  const auto object = full_report(sample(MigrationStatus::completed));
  EXPECT_EQ(object["items"].size(), 3u);
  EXPECT_EQ(object["items"][1]["total-bytes"], 321);
  EXPECT_EQ(object["rounds"].size(), 2u);
  EXPECT_EQ(object["rounds"][0]["zero-pages"], 10);
  EXPECT_EQ(object["downtime-parts-ms"], json::parse(R"({"stop": 1.0, "final-ram": 2.0, "device-state": 3.0,
      "load": 4.0, "commit": 5.0, "start": 6.0})"));
  EXPECT_FALSE(object.contains("error"));
}

}  // namespace
}  // namespace handover::control
