#include "cli/demo_report.h"

#include <algorithm>

#include "handover/base/units.h"

namespace handover::cli {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

constexpr const char* kParts[] = {"stop", "final-ram", "device-state", "load", "commit", "start"};

double mib(double bytes) {
  return bytes / static_cast<double>(MiB);
}

bool is_device(const json& item) {
  return item.at("section").get<std::string>().ends_with("/vfio");
}

std::string row(std::string_view what, std::string_view value) {
  return fmt::format("  {:<26}{}\n", what, value);
}

}  // namespace

std::uint64_t DemoFigures::mismatches() const {
  // A failed verification is one: the guest stops at the first.
  return std::max<std::uint64_t>(after.mismatches, verification_error.empty() ? 0 : 1);
}

std::uint64_t DemoFigures::device_bytes() const {
  std::uint64_t sum = 0;
  for (const auto& item : report.at("items"))
    if (is_device(item)) sum += item.at("total-bytes").get<std::uint64_t>();
  return sum;
}

std::uint64_t DemoFigures::ram_bytes() const {
  for (const auto& item : report.at("items"))
    if (item.at("section") == "ram") return item.at("total-bytes");
  return 0;
}

double DemoFigures::throughput_mib_s() const {
  const double seconds = (report.at("total-ms").get<double>() - report.at("setup-ms").get<double>()) / 1000;
  return seconds > 0 ? mib(report.at("transferred-bytes").get<double>()) / seconds : 0;
}

std::string DemoFigures::first_failure() const {
  if (report.at("status") != "completed")
    return fmt::format("the migration is {}", report.at("status").get<std::string>());
  if (!verification_error.empty()) return verification_error;
  if (mismatches() != 0) return fmt::format("{} mismatches", mismatches());
  if (interrupts_lost() != 0) return fmt::format("{} interrupts lost", interrupts_lost());
  if (after.devices_lost != 0) return fmt::format("{} devices lost", after.devices_lost);
  if (verification.value("pages", 0u) == 0 || verification.value("device-slots", 0u) == 0)
    return "the verification saw no memory";
  if (jobs_after() == 0) return "the devices did no job on the destination";
  return {};
}

std::string demo_table(const DemoFigures& figures) {
  const auto& report = figures.report;
  std::string table = "\nThe machine moved.\n\n";
  table += row("total time", fmt::format("{} ms", report.at("total-ms").get<std::uint64_t>()));
  table += row("downtime", fmt::format("{:.1f} ms", report.at("downtime-ms").get<double>()));
  for (const auto* part : kParts)
    table += row(fmt::format("  {}", part),
                 fmt::format("{:.1f} ms", report.at("downtime-parts-ms").at(part).get<double>()));
  table += row("  predicted", fmt::format("{:.1f} ms, when the switchover was decided",
                                          report.at("predicted-downtime-ms").get<double>()));
  if (const auto channels = report.at("multifd-channels").get<std::uint64_t>(); channels > 0)
    table += row("multifd channels", fmt::format("{}, {:.0f} MiB on them", channels,
                                                 mib(report.at("multifd-bytes").get<double>())));
  table += row("rounds over memory", fmt::format("{}", report.at("rounds").size()));
  table += row("throughput", fmt::format("{:.0f} MiB/s", figures.throughput_mib_s()));

  table += fmt::format("\n  {:<18}{:>14}{:>14}{:>14}\n", "sent, MiB", "while set up", "while running",
                       "while stopped");
  for (const auto& item : report.at("items")) {
    if (item.at("total-bytes").get<double>() == 0) continue;
    table +=
        fmt::format("  {:<18}{:>14.2f}{:>14.2f}{:>14.2f}\n", item.at("name").get<std::string>(),
                    mib(item.at("setup-bytes").get<double>()), mib(item.at("precopy-bytes").get<double>()),
                    mib(item.at("downtime-bytes").get<double>()));
  }

  table += "\n";
  for (const auto& each : report.at("dirty-tracking"))
    table += row("dirty tracking", fmt::format("{}: {}", each.at("who").get<std::string>(),
                                               each.at("reason").get<std::string>()));
  if (figures.after.iommu_mappings > 0)
    table += row("IOMMU mappings", fmt::format("{} made before, {} in all; {} faults where nothing is mapped",
                                               figures.before.iommu_mappings, figures.after.iommu_mappings,
                                               figures.after.iommu_faults));

  const auto& checked = figures.verification;
  table += fmt::format("\n  {:<26}{} before, {} during, {} after\n", "device jobs",
                       figures.before.jobs_completed, figures.jobs_during(), figures.jobs_after());
  table += row("verified at the end", fmt::format("{} pages of RAM, {} pieces of device memory",
                                                  checked.value("pages", std::uint64_t{0}),
                                                  checked.value("device-slots", std::uint64_t{0})));
  table += row("interrupts lost", fmt::format("{}", figures.interrupts_lost()));
  table += row("mismatches", fmt::format("{}", figures.mismatches()));
  return table;
}

std::string comparison(const DemoFigures& several, const DemoFigures& one, std::uint32_t devices) {
  const double with_one = one.report.at("downtime-ms").get<double>();
  const double with_all = several.report.at("downtime-ms").get<double>();
  return "\n" + row("downtime, one device", fmt::format("{:.1f} ms", with_one)) +
         row(fmt::format("downtime, {} devices", devices),
             fmt::format("{:.1f} ms, {:.2f} times as long", with_all, with_all / with_one));
}

ordered_json demo_json(const DemoFigures& figures) {
  const auto& report = figures.report;
  ordered_json parts;
  for (const auto* part : kParts) {
    std::string key = part;
    std::ranges::replace(key, '-', '_');
    parts[key] = report.at("downtime-parts-ms").at(part);
  }
  return {{"status", report.at("status")},
          {"total_ms", report.at("total-ms")},
          {"downtime_ms", report.at("downtime-ms")},
          {"downtime_parts", parts},
          {"predicted_downtime_ms", report.at("predicted-downtime-ms")},
          {"multifd_channels", report.at("multifd-channels")},
          {"multifd_bytes", report.at("multifd-bytes")},
          {"rounds", report.at("rounds").size()},
          {"ram_bytes", figures.ram_bytes()},
          {"device_bytes", figures.device_bytes()},
          {"throughput_mib_s", figures.throughput_mib_s()},
          {"jobs_before", figures.before.jobs_completed},
          {"jobs_during", figures.jobs_during()},
          {"jobs_after", figures.jobs_after()},
          {"interrupts_lost", figures.interrupts_lost()},
          {"mismatches", figures.mismatches()}};
}

}  // namespace handover::cli
