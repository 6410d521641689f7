#include "cli/device_options.h"

#include <limits>

#include "cli/size_option.h"

namespace handover::cli {

void DeviceReadOptions::add_to(CLI::App& command) {
  auto* stopped = command.add_flag("--stop-only", stop_only, "read everything while the device is stopped");
  auto* some =
      command
          .add_option("--pre-copy-rounds", rounds,
                      "stop the device after so many rounds of pre-copy, as soon as its initial data has "
                      "gone; without it, when what is left fits the downtime limit")
          ->check(CLI::Range(1u, std::numeric_limits<std::uint32_t>::max()));
  stopped->excludes(some);
  command.add_option("--max-bandwidth", max_bandwidth, "bytes a second while the device runs; 0: no limit")
      ->transform(size_in({.most = std::numeric_limits<std::uint64_t>::max(), .example = "200M"}))
      ->default_str("0");
  command.add_option("--downtime-limit", downtime_limit_ms, "how long the device may be stopped, in ms")
      ->check(CLI::Range(0, 2'000'000))
      ->capture_default_str()
      ->excludes(stopped)
      ->excludes(some);
}

solo::SoloOptions DeviceReadOptions::solo() const {
  return {.side = solo::SoloOptions::Side::source,
          .use_precopy = !stop_only,
          .rounds = rounds,
          .downtime_limit_ms = downtime_limit_ms};
}

Parameters DeviceReadOptions::parameters() const {
  Parameters parameters;
  parameters.max_bandwidth = max_bandwidth;
  return parameters;
}

}  // namespace handover::cli
