#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace handover::cli {

/// One line about a migration under way, from query-migrate's answer; at most `width` columns.
std::string progress_text(const nlohmann::json& figures, std::size_t width);
/// The end of a migration to `address` in a few words.
std::string summary_text(const nlohmann::json& figures, std::string_view address);
/// A line for each device whose writes were tracked: how, and why so.  Begins with a new line.
std::string tracking_text(const nlohmann::json& figures);
/// The end of a snapshot.
std::string snapshot_summary(const nlohmann::json& figures, std::string_view path);
/// A member of an answer, which may be anything; `otherwise` if it is no text.
std::string text_of(const nlohmann::json& answer, const char* name, std::string_view otherwise = {});
/// A size as people read it.
std::string size_text(double bytes);

/// Shows how a migration goes on standard output: one line that is redrawn on a terminal; elsewhere a line
/// for each phase and pass, at most one a second.
class MigrationProgress {
 public:
  MigrationProgress();
  ~MigrationProgress() { clear(); }
  MigrationProgress(const MigrationProgress&) = delete;
  MigrationProgress& operator=(const MigrationProgress&) = delete;

  void show(const nlohmann::json& figures);
  /// A line that stays.
  void say(std::string_view line);
  /// Takes the live line away.
  void clear();

 private:
  bool terminal_;
  bool drawn_ = false;
  std::string last_step_;
  std::chrono::steady_clock::time_point last_line_{};
};

}  // namespace handover::cli
