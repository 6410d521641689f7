#pragma once

#include <fmt/core.h>

#include <string_view>

/// The log: one line each to standard error, through spdlog.  Any thread.
namespace handover::log {

enum class Level { trace, debug, info, warn, error, off };

/// Level names as a user types them: trace, debug, info, warn, error, off.
bool set_level(std::string_view name);
void set_level(Level level);
bool enabled(Level level);
void write(Level level, std::string_view text);

template <class... Args>
void at(Level level, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(level)) write(level, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::debug, format, std::forward<Args>(args)...);
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::info, format, std::forward<Args>(args)...);
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::warn, format, std::forward<Args>(args)...);
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::error, format, std::forward<Args>(args)...);
}

}  // namespace handover::log
