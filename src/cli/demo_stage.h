#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/child_process.h"
#include "control/qmp_client.h"
#include "handover/base/cancel.h"

namespace handover::cli {

struct DemoOptions {
  std::string program;  ///< the `handover` binary
  std::uint64_t memory = 0;
  std::uint64_t device_memory = 0;
  std::uint32_t devices = 1;
  std::uint64_t channels = 0;  ///< multifd channels; 0: the main channel alone
  bool viommu = false;
  std::string load_cost;  ///< of each device, such as 70ms; empty: none
  std::uint64_t dirty_rate = 0;
  std::uint64_t job_rate = 0;
  std::uint64_t seed = 0;
  double work_before_s = 0;
  double work_after_s = 0;
  std::uint64_t max_bandwidth = 0;
  std::uint64_t downtime_limit_ms = 0;
  bool compare = false;
  std::string json_path;
  bool keep_logs = false;
};

/// What the guest says of itself (x-handover-guest); the counts move with it.
struct GuestFigures {
  std::uint64_t pages_written = 0;
  std::uint64_t jobs_completed = 0;
  std::uint64_t iommu_mappings = 0;
  std::uint64_t iommu_faults = 0;
  std::uint64_t interrupts_lost = 0;
  std::uint64_t mismatches = 0;
  std::uint64_t devices_lost = 0;
};

/// One side of the demonstration: a process for each device and one for the machine, and the line to it.
class DemoSide {
 public:
  /// Starts everything; `incoming` makes the machine wait for a migration.  Logs and sockets are in `folder`.
  static Result<DemoSide> start(const std::string& name, const std::filesystem::path& folder,
                                const DemoOptions& options, bool incoming, const CancelToken& cancel);

  control::QmpClient& qmp() { return *qmp_; }
  /// Where an incoming machine listens.
  Result<std::string> listening_on(const CancelToken& cancel);
  Result<GuestFigures> guest(const CancelToken& cancel);
  /// Asks the machine to end and the device processes with it; what ended badly is an error.
  Status end(const CancelToken& cancel);

 private:
  DemoSide() = default;
  std::vector<ChildProcess> devices_;
  std::optional<ChildProcess> machine_;
  std::optional<control::QmpClient> qmp_;
};

/// A folder that goes with the object, unless it is to be kept.
class ScratchFolder {
 public:
  static Result<ScratchFolder> create(bool keep);
  ScratchFolder(ScratchFolder&& other) noexcept : path_(std::move(other.path_)), keep_(other.keep_) {
    other.path_.clear();
  }
  ScratchFolder& operator=(ScratchFolder&&) = delete;
  ~ScratchFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  ScratchFolder(std::filesystem::path path, bool keep) : path_(std::move(path)), keep_(keep) {}
  std::filesystem::path path_;
  bool keep_;
};

}  // namespace handover::cli
