#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cli/child_process.h"
#include "control/qmp_client.h"

/// Real processes of a migration, for tests: device servers, a source, a destination, and their control
/// lines.
namespace handover::test {

using nlohmann::json;

/// Far beyond what anything takes; a test that waits this long has failed.
inline Deadline patience() {
  return std::chrono::steady_clock::now() + std::chrono::seconds(120);
}

inline std::uint64_t test_seed() {
  const char* given = std::getenv("HANDOVER_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  fmt::print("seed {} (HANDOVER_SEED repeats it)\n", seed);
  return seed;
}

/// A folder in /tmp that goes with the object.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  /// What a process wrote to its error file.
  std::string text(const std::string& name) const;

 private:
  std::string path_;
};

struct SideOptions {
  std::string memory = "64M";
  std::string device_memory = "16M";
  std::uint32_t devices = 1;
  std::vector<std::string> more = {"--dirty-rate", "50M", "--job-rate", "500"};
  /// Further words for the server of the last device.
  std::vector<std::string> last_device = {};
};

/// One machine process with its device server processes.
class Side {
 public:
  Side(TestFolder& folder, const std::string& name, const SideOptions& options, bool incoming);

  cli::ChildProcess& machine() { return *machine_; }
  cli::ChildProcess& device(std::size_t index) { return devices_[index]; }
  bool alive() { return machine_->alive(); }

  /// Executes; a machine that is gone gives the error.
  Result<json> ask(const std::string& command, json arguments = json::object());
  void set_capability(const char* name, bool state);
  /// query-status; "gone" if the process is.
  std::string run_state();
  /// query-migrate's status; "gone" if the process is.
  std::string migration_status();
  std::string listening_on();
  json guest();
  /// Waits until the guest has written more pages than now: it really runs.
  void expect_progress(const std::string& when);
  /// Events until now, as (name, microseconds since the epoch).
  std::vector<std::pair<std::string, std::int64_t>> events();

 private:
  std::string name_;
  std::vector<cli::ChildProcess> devices_;
  std::optional<cli::ChildProcess> machine_;
  std::optional<control::QmpClient> qmp_;
};

/// Asks until the answer is true.
void wait_until(const std::string& what, const std::function<bool()>& holds);
bool is_final_status(const std::string& status);

}  // namespace handover::test
