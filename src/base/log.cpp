#include "handover/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "handover/base/trace.h"

namespace handover::log {
namespace {

spdlog::logger& logger() {
  static auto instance = [] {
    auto made = spdlog::stderr_color_mt("handover");
    made->set_pattern("%H:%M:%S.%f %^%l%$ %v");
    made->set_level(spdlog::level::warn);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::trace:
      return spdlog::level::trace;
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warn:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
    case Level::off:
      return spdlog::level::off;
  }
  return spdlog::level::off;
}

}  // namespace

bool set_level(std::string_view name) {
  constexpr std::pair<std::string_view, Level> kNames[] = {
      {"trace", Level::trace}, {"debug", Level::debug}, {"info", Level::info},
      {"warn", Level::warn},   {"error", Level::error}, {"off", Level::off},
  };
  for (const auto& [known, level] : kNames)
    if (known == name) {
      set_level(level);
      return true;
    }
  return false;
}

void set_level(Level level) {
  logger().set_level(to_spdlog(level));
}

bool enabled(Level level) {
  return logger().should_log(to_spdlog(level));
}

void write(Level level, std::string_view text) {
  logger().log(to_spdlog(level), text);
}

}  // namespace handover::log

namespace handover::trace {

bool logging() {
  return log::enabled(log::Level::trace);
}

void log_line(std::string_view name, std::string_view arguments) {
  log::write(log::Level::trace, fmt::format("{}{}", name, arguments));
}

}  // namespace handover::trace
