#include "control/migration_json.h"

#include <algorithm>
#include <cmath>

#include "handover/base/units.h"

namespace handover::control {

using nlohmann::json;

namespace {

std::uint64_t whole(double value) {
  return value > 0 ? static_cast<std::uint64_t>(std::llround(value)) : 0;
}

bool is_vfio(const ItemStatistics& item) {
  return item.section.ends_with("/vfio");
}

// Pages a second over the last pass that took time.
std::uint64_t pages_per_second(const Statistics& all) {
  for (auto round = all.rounds.rbegin(); round != all.rounds.rend(); ++round)
    if (round->seconds > 0)
      return whole(static_cast<double>(round->normal_pages + round->zero_pages) / round->seconds);
  return 0;
}

json ram_object(const Statistics& all) {
  const auto at = std::ranges::find(all.items, "ram", &ItemStatistics::section);
  const ItemStatistics ram = at == all.items.end() ? ItemStatistics{} : *at;
  return {{"transferred", all.transferred},
          {"remaining", ram.pending_bytes},
          {"total", all.total_bytes},
          {"duplicate", ram.zero_pages},
          {"normal", ram.normal_pages},
          {"normal-bytes", ram.normal_pages * kPageSize},
          {"dirty-pages-rate", all.dirty_pages_rate},
          {"mbps", all.throughput * 8 / 1e6},
          {"dirty-sync-count", all.dirty_sync_count},
          {"postcopy-requests", 0},
          {"page-size", kPageSize},
          {"multifd-bytes", all.multifd_bytes},
          {"pages-per-second", pages_per_second(all)},
          {"precopy-bytes", ram.setup_bytes + ram.precopy_bytes},
          {"downtime-bytes", ram.downtime_bytes},
          {"postcopy-bytes", 0},
          {"dirty-sync-missed-zero-copy", 0}};
}

bool runs(MigrationStatus status) {
  return status == MigrationStatus::setup || status == MigrationStatus::active ||
         status == MigrationStatus::pre_switchover || status == MigrationStatus::device;
}

json item_object(const ItemStatistics& item) {
  return {{"name", item.name},
          {"section", item.section},
          {"setup-bytes", item.setup_bytes},
          {"precopy-bytes", item.precopy_bytes},
          {"downtime-bytes", item.downtime_bytes},
          {"total-bytes", item.total()},
          {"pending-bytes", item.pending_bytes},
          {"size-known", !item.size_unknown},
          {"send-bytes-per-second", item.send_rate},
          {"load-bytes-per-second", item.load_rate},
          {"acks-wanted", item.acks_wanted},
          {"normal-pages", item.normal_pages},
          {"zero-pages", item.zero_pages}};
}

json tracking_array(const Statistics& all) {
  auto array = json::array();
  for (const auto& each : all.dirty_tracking)
    array.push_back(
        {{"who", each.who}, {"tracker", each.tracker}, {"pre-copy", each.pre_copy}, {"reason", each.reason}});
  return array;
}

json round_object(const RamRound& round) {
  return {{"number", round.number},
          {"dirty-pages", round.dirty_pages},
          {"normal-pages", round.normal_pages},
          {"zero-pages", round.zero_pages},
          {"bytes", round.bytes},
          {"seconds", round.seconds}};
}

}  // namespace

json query_migrate(const Statistics& all) {
  auto object = json::object();
  if (all.status == MigrationStatus::none) return object;
  object["status"] = to_string(all.status);
  if (!all.error.empty()) object["error-desc"] = all.error;
  const bool completed = all.status == MigrationStatus::completed;
  if (!runs(all.status) && !completed && all.status != MigrationStatus::in_doubt) return object;

  object["total-time"] = all.total_ms;
  object["setup-time"] = all.setup_ms;
  if (runs(all.status)) {
    object["expected-downtime"] = whole(all.expected_downtime_ms);
    object["remaining"] = all.remaining;
  } else {
    object["downtime"] = whole(all.downtime_ms);
  }
  object["ram"] = ram_object(all);
  if (std::ranges::any_of(all.items, is_vfio)) {
    std::uint64_t transferred = 0;
    for (const auto& item : all.items)
      if (is_vfio(item)) transferred += item.total();
    object["vfio"] = {{"transferred", transferred}, {"x-handover-dirty-tracking", tracking_array(all)}};
  }
  return object;
}

json query_incoming(MigrationStatus status, const std::string& error,
                    const std::optional<Address>& listening) {
  auto object = json::object();
  if (status != MigrationStatus::none) object["status"] = to_string(status);
  if (!error.empty()) object["error-desc"] = error;
  if (listening)
    if (auto address = socket_address_json(*listening)) object["socket-address"] = json::array({*address});
  return object;
}

json full_report(const Statistics& all) {
  const auto& parts = all.downtime_parts;
  auto items = json::array();
  for (const auto& item : all.items)
    items.push_back(item_object(item));
  auto rounds = json::array();
  for (const auto& round : all.rounds)
    rounds.push_back(round_object(round));
  json object{{"status", to_string(all.status)},
              {"total-ms", all.total_ms},
              {"setup-ms", all.setup_ms},
              {"downtime-ms", all.downtime_ms},
              {"downtime-parts-ms",
               {{"stop", parts.stop},
                {"final-ram", parts.final_ram},
                {"device-state", parts.device_state},
                {"load", parts.load},
                {"commit", parts.commit},
                {"start", parts.start}}},
              {"expected-downtime-ms", all.expected_downtime_ms},
              {"predicted-downtime-ms", all.predicted_downtime_ms},
              {"multifd-channels", all.multifd_channels},
              {"multifd-bytes", all.multifd_bytes},
              {"switchover-acks", all.switchover_acks},
              {"transferred-bytes", all.transferred},
              {"remaining-bytes", all.remaining},
              {"ram-bytes", all.total_bytes},
              {"throughput-bytes-per-second", all.throughput},
              {"dirty-sync-count", all.dirty_sync_count},
              {"dirty-pages-per-second", all.dirty_pages_rate},
              {"dirty-tracking", tracking_array(all)},
              {"items", std::move(items)},
              {"rounds", std::move(rounds)}};
  if (!all.error.empty()) object["error"] = all.error;
  return object;
}

}  // namespace handover::control
