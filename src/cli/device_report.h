#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "handover/migration/statistics.h"
#include "handover/solo/solo_machine.h"

namespace handover::cli {

/// How one command with devices alone went, for people and for programs.
struct DeviceReport {
  std::string operation;  ///< save, load, migrate
  MigrationStatus status = MigrationStatus::none;
  std::string error;
  std::string place;  ///< the file or address at the other end; empty: both devices are here
  double seconds = 0;
  const solo::SoloMachine* source = nullptr;       ///< null: not in this process
  const solo::SoloMachine* destination = nullptr;  ///< null: not in this process
  Statistics statistics{};                         ///< of a source
};

std::string report_text(const DeviceReport& report);
nlohmann::ordered_json report_json(const DeviceReport& report);
/// Writes the JSON; nothing if `path` is empty.
Status write_report(const DeviceReport& report, const std::string& path);

/// One line about a migration under way.
std::string source_line(const solo::SoloMachine& source, const Statistics& statistics);
std::string destination_line(const solo::SoloMachine& destination, MigrationStatus status);

}  // namespace handover::cli
