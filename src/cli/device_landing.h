#pragma once

#include "handover/migration/destination.h"
#include "handover/solo/solo_machine.h"

namespace handover::cli {

/// The end of a load, whichever it is: a device that was loaded runs unless it is to stay stopped; one that
/// has lost its own state to an incomplete load is reset.  The failure of a load says what became of the
/// device.
Status land(solo::SoloMachine& machine, const Destination& destination, bool stay_stopped);

}  // namespace handover::cli
