#include "handover/migration/status.h"

namespace handover {

std::string_view to_string(MigrationStatus status) {
  switch (status) {
    case MigrationStatus::none:
      return "none";
    case MigrationStatus::setup:
      return "setup";
    case MigrationStatus::active:
      return "active";
    case MigrationStatus::pre_switchover:
      return "pre-switchover";
    case MigrationStatus::device:
      return "device";
    case MigrationStatus::completed:
      return "completed";
    case MigrationStatus::failing:
      return "failing";
    case MigrationStatus::failed:
      return "failed";
    case MigrationStatus::cancelling:
      return "cancelling";
    case MigrationStatus::cancelled:
      return "cancelled";
    case MigrationStatus::in_doubt:
      return "in-doubt";
  }
  return "unknown";
}

bool is_final(MigrationStatus status) {
  switch (status) {
    case MigrationStatus::completed:
    case MigrationStatus::failed:
    case MigrationStatus::cancelled:
    case MigrationStatus::in_doubt:
      return true;
    default:
      return false;
  }
}

}  // namespace handover
