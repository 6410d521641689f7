#pragma once

#include <string>

#include "control/qmp_client.h"
#include "handover/base/cancel.h"
#include "handover/base/result.h"

namespace handover::cli {

/// Writes all that a machine knows of its last migration or snapshot, for programs.  Does nothing for an
/// empty name.
Status write_report(control::QmpClient& client, const std::string& path, const CancelToken& cancel);

}  // namespace handover::cli
