#include "cli/device_landing.h"

namespace handover::cli {

Status land(solo::SoloMachine& machine, const Destination& destination, bool stay_stopped) {
  const auto status = destination.status();
  if (status == MigrationStatus::completed) {
    // A device that was saved stopped arrives stopped.
    return stay_stopped ? Status{} : machine.run();
  }
  const auto code = status == MigrationStatus::cancelled ? Errc::cancelled : Errc::state;
  const auto reset = machine.abandon_load();
  if (!reset) return fail(code, "{}; {}", destination.error(), reset.error().to_string());
  if (machine.device().lost()) return fail(code, "{}", destination.error());
  return fail(code, "{}; {}", destination.error(),
              *reset ? "the device was reset" : "the device is as it was");
}

}  // namespace handover::cli
