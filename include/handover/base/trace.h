#pragma once

#include <fmt/core.h>
#include <sys/sdt.h>

#include <string_view>

/// Trace points.  HANDOVER_TRACE(name, a, b, ...) is a USDT probe handover:name with up to four integer or
/// string arguments, and the same as a log line at trace level.  Without a listener a probe costs one nop,
/// the log line one relaxed load.  Every name is listed in docs/tracing.md.

namespace handover::trace {

/// True when the log is at trace level.
bool logging();
void log_line(std::string_view name, std::string_view arguments);

template <class... Args>
void line(std::string_view name, const Args&... args) {
  std::string text;
  ((text += fmt::format(" {}", args)), ...);
  log_line(name, text);
}

inline long probe_argument(const char* text) {
  return reinterpret_cast<long>(text);
}
inline long probe_argument(auto number) {
  return static_cast<long>(number);
}

}  // namespace handover::trace

#define HANDOVER_TRACE_ARG0(name) DTRACE_PROBE(handover, name)
#define HANDOVER_TRACE_ARG1(name, a) DTRACE_PROBE1(handover, name, handover::trace::probe_argument(a))
#define HANDOVER_TRACE_ARG2(name, a, b) \
  DTRACE_PROBE2(handover, name, handover::trace::probe_argument(a), handover::trace::probe_argument(b))
#define HANDOVER_TRACE_ARG3(name, a, b, c)                                                              \
  DTRACE_PROBE3(handover, name, handover::trace::probe_argument(a), handover::trace::probe_argument(b), \
                handover::trace::probe_argument(c))
#define HANDOVER_TRACE_ARG4(name, a, b, c, d)                                                           \
  DTRACE_PROBE4(handover, name, handover::trace::probe_argument(a), handover::trace::probe_argument(b), \
                handover::trace::probe_argument(c), handover::trace::probe_argument(d))
#define HANDOVER_TRACE_PICK(_0, _1, _2, _3, _4, picked, ...) picked

/// Arguments are C strings and integers.
#define HANDOVER_TRACE(...)                                                                         \
  do {                                                                                              \
    HANDOVER_TRACE_PICK(__VA_ARGS__, HANDOVER_TRACE_ARG4, HANDOVER_TRACE_ARG3, HANDOVER_TRACE_ARG2, \
                        HANDOVER_TRACE_ARG1, HANDOVER_TRACE_ARG0)(__VA_ARGS__);                     \
    if (handover::trace::logging()) HANDOVER_TRACE_LINE(__VA_ARGS__);                               \
  } while (false)
#define HANDOVER_TRACE_LINE(name, ...) handover::trace::line(#name __VA_OPT__(, ) __VA_ARGS__)
