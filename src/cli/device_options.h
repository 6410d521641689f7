#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>

#include "handover/migration/parameters.h"
#include "handover/solo/solo_machine.h"

namespace handover::cli {

/// How a device is read, as typed: the options that saving and migrating have in common.
struct DeviceReadOptions {
  bool stop_only = false;
  std::optional<std::uint32_t> rounds;
  std::uint64_t max_bandwidth = 0;  // nothing else runs that would need the link
  std::uint64_t downtime_limit_ms = Parameters{}.downtime_limit_ms;

  void add_to(CLI::App& command);
  solo::SoloOptions solo() const;
  Parameters parameters() const;
};

}  // namespace handover::cli
