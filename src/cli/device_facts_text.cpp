#include "cli/device_facts_text.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "cli/migration_progress.h"

namespace handover::cli {

using nlohmann::ordered_json;
using solo::DeviceFacts;

namespace {

/// Base classes of PCI Code and ID Assignment 1.11.
constexpr const char* kClasses[] = {"before classes were defined",
                                    "mass storage",
                                    "network",
                                    "display",
                                    "multimedia",
                                    "memory",
                                    "bridge",
                                    "communication",
                                    "system peripheral",
                                    "input",
                                    "docking station",
                                    "processor",
                                    "serial bus",
                                    "wireless",
                                    "intelligent I/O",
                                    "satellite",
                                    "encryption",
                                    "signal processing",
                                    "processing accelerator"};

std::string class_name(std::uint32_t class_code) {
  const auto base = class_code >> 16;
  return base < std::size(kClasses) ? kClasses[base] : "of no known class";
}

std::string region_name(std::uint32_t index) {
  if (index < vfio::kRegionRom) return fmt::format("BAR {}", index);
  switch (index) {
    case vfio::kRegionRom:
      return "ROM";
    case vfio::kRegionConfig:
      return "config space";
    case vfio::kRegionVga:
      return "VGA";
    default:
      return fmt::format("region {}", index);
  }
}

std::string irq_name(std::uint32_t index) {
  constexpr const char* kNames[] = {"INTx", "MSI", "MSI-X", "error", "request"};
  return index < std::size(kNames) ? kNames[index] : fmt::format("interrupt {}", index);
}

std::vector<std::string> feature_names(std::uint64_t features) {
  std::vector<std::string> names;
  if (features & vfio::kMigrationStopCopy) names.emplace_back("stop-copy");
  if (features & vfio::kMigrationPreCopy) names.emplace_back("pre-copy");
  if (features & vfio::kMigrationP2p) names.emplace_back("p2p");
  return names;
}

std::vector<std::string> state_names(std::uint64_t features) {
  std::vector<std::string> names;
  for (std::uint32_t i = 0; i < vfio::kDeviceStateCount; ++i)
    if (const auto state = *vfio::device_state_from(i);
        state != vfio::DeviceState::error && vfio::state_exists(state, features))
      names.emplace_back(to_string(state));
  return names;
}

std::vector<vfio::RegionArea> mappable(const vfio::RegionInfo& region) {
  if ((region.flags & vfio::kRegionMmap) == 0) return {};
  return region.areas.empty() ? std::vector{vfio::RegionArea{0, region.size}} : region.areas;
}

std::string access_text(std::uint32_t flags) {
  return fmt::format("{}{}", flags & vfio::kRegionRead ? "read" : "",
                     flags & vfio::kRegionWrite ? (flags & vfio::kRegionRead ? ", write" : "write") : "");
}

void add_line(std::string& text, std::string_view what, const std::string& value) {
  text += fmt::format("{:<20} {}\n", what, value);
}

void add_pci(std::string& text, const DeviceFacts& facts) {
  if (!facts.pci) {
    add_line(text, "PCI", facts.pci_problem.empty() ? "no PCI device" : facts.pci_problem);
    return;
  }
  const auto& pci = *facts.pci;
  add_line(text, "PCI", fmt::format("{:04x}:{:04x}, revision {:#x}", pci.vendor, pci.device, pci.revision));
  add_line(text, "class", fmt::format("{:06x}, {}", pci.class_code, class_name(pci.class_code)));
  add_line(text, "subsystem", fmt::format("{:04x}:{:04x}", pci.subsystem_vendor, pci.subsystem));
}

void add_regions(std::string& text, const DeviceFacts& facts) {
  if (facts.regions.empty()) return;
  text += fmt::format("\n{:<20} {:>11}  {:<12} {}\n", "region", "size", "access", "mappable");
  for (const auto& region : facts.regions) {
    std::vector<std::string> areas;
    for (const auto& area : mappable(region))
      areas.push_back(fmt::format("{} at {:#x}", size_text(static_cast<double>(area.size)), area.offset));
    text += fmt::format("{:<20} {:>11}  {:<12} {}\n", region_name(region.index),
                        size_text(static_cast<double>(region.size)), access_text(region.flags),
                        areas.empty() ? "no" : fmt::format("{}", fmt::join(areas, ", ")));
  }
}

void add_migration(std::string& text, const DeviceFacts& facts) {
  text += "\n";
  if (!facts.migration) {
    add_line(text, "migration", "no: " + facts.migration_blocker);
    return;
  }
  const auto& migration = *facts.migration;
  add_line(text, "migration",
           fmt::format("{}, {}", migration.protocol, fmt::join(feature_names(migration.features), ", ")));
  add_line(text, "states", fmt::format("{}", fmt::join(state_names(migration.features), ", ")));
  add_line(text, "state now", migration.state ? std::string(to_string(*migration.state)) : "it does not say");
  add_line(text, "pre-copy info", migration.precopy_info ? "yes" : "no");
  add_line(text, "stop-copy size",
           migration.stop_copy_bytes ? size_text(static_cast<double>(*migration.stop_copy_bytes))
                                     : "it cannot say");
  add_line(text, "chunk", size_text(static_cast<double>(migration.chunk_bytes)));
}

}  // namespace

std::string facts_text(const DeviceFacts& facts) {
  std::string text;
  add_line(text, "device", facts.id);
  add_pci(text, facts);
  add_line(text, "reset", facts.resettable ? "yes" : "no");
  add_regions(text, facts);
  text += "\n";
  for (const auto& irq : facts.irqs)
    add_line(text, irq_name(irq.index), fmt::format("{} vector{}", irq.count, irq.count == 1 ? "" : "s"));
  add_migration(text, facts);
  add_line(text, "DMA log", facts.dma_log ? "yes" : "no");
  return text;
}

ordered_json facts_json(const DeviceFacts& facts) {
  ordered_json object{{"device", facts.id}, {"reset", facts.resettable}};
  if (facts.pci)
    object["pci"] = {{"vendor", facts.pci->vendor},
                     {"device", facts.pci->device},
                     {"class", facts.pci->class_code},
                     {"class-name", class_name(facts.pci->class_code)},
                     {"revision", facts.pci->revision},
                     {"subsystem-vendor", facts.pci->subsystem_vendor},
                     {"subsystem", facts.pci->subsystem},
                     {"config-bytes", facts.pci->config_bytes},
                     {"msix-vectors", facts.pci->msix_vectors}};
  else if (!facts.pci_problem.empty())
    object["pci-problem"] = facts.pci_problem;
  auto& regions = object["regions"] = ordered_json::array();
  for (const auto& region : facts.regions) {
    auto areas = ordered_json::array();
    for (const auto& area : mappable(region))
      areas.push_back({{"offset", area.offset}, {"size", area.size}});
    regions.push_back({{"index", region.index},
                       {"name", region_name(region.index)},
                       {"size", region.size},
                       {"readable", (region.flags & vfio::kRegionRead) != 0},
                       {"writable", (region.flags & vfio::kRegionWrite) != 0},
                       {"mappable", std::move(areas)}});
  }
  auto& irqs = object["interrupts"] = ordered_json::array();
  for (const auto& irq : facts.irqs)
    irqs.push_back({{"index", irq.index}, {"name", irq_name(irq.index)}, {"vectors", irq.count}});
  if (const auto& migration = facts.migration)
    object["migration"] = {
        {"protocol", migration->protocol},
        {"features", feature_names(migration->features)},
        {"states", state_names(migration->features)},
        {"state", migration->state ? ordered_json(to_string(*migration->state)) : ordered_json()},
        {"precopy-info", migration->precopy_info},
        {"stop-copy-bytes",
         migration->stop_copy_bytes ? ordered_json(*migration->stop_copy_bytes) : ordered_json()},
        {"chunk-bytes", migration->chunk_bytes}};
  else
    object["migration-blocker"] = facts.migration_blocker;
  object["dma-log"] = facts.dma_log;
  return object;
}

}  // namespace handover::cli
