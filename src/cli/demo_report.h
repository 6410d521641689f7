#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "cli/demo_stage.h"

namespace handover::cli {

/// What the demonstration found.
struct DemoFigures {
  nlohmann::json report;                                   ///< x-handover-report of the source
  nlohmann::json verification = nlohmann::json::object();  ///< x-handover-verify of the destination
  std::string verification_error;                          ///< why that failed
  GuestFigures before;                                     ///< when the migration began
  GuestFigures arrived;                                    ///< when the destination had started
  GuestFigures after;                                      ///< at the end

  std::uint64_t jobs_during() const { return arrived.jobs_completed - before.jobs_completed; }
  std::uint64_t jobs_after() const { return after.jobs_completed - arrived.jobs_completed; }
  std::uint64_t mismatches() const;
  std::uint64_t interrupts_lost() const { return after.interrupts_lost; }
  std::uint64_t device_bytes() const;
  std::uint64_t ram_bytes() const;
  double throughput_mib_s() const;
  /// Every promise holds; otherwise the first one that does not.
  std::string first_failure() const;
};

/// For people.
std::string demo_table(const DemoFigures& figures);
/// How much longer the guest stood still with several devices than with one.
std::string comparison(const DemoFigures& several, const DemoFigures& one, std::uint32_t devices);
/// For programs: flat keys.
nlohmann::ordered_json demo_json(const DemoFigures& figures);

}  // namespace handover::cli
