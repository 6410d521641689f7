#pragma once

#include <fmt/core.h>

#include <expected>
#include <string>
#include <utility>
#include <vector>

namespace handover {

/// What kind of failure an Error is; the sentence says the rest.
enum class Errc {
  invalid_argument,  ///< the caller (or the user) asked for something that makes no sense
  not_found,         ///< a file, device, block or section that does not exist
  unsupported,       ///< the peer, device or build cannot do this
  state,             ///< not possible in the present state
  io,                ///< the operating system refused; Error::sys_errno() has the errno
  closed,            ///< the peer ended the connection
  cancelled,         ///< somebody asked to stop
  timeout,           ///< the peer did not answer in time
  protocol,          ///< foreign bytes that break their format
  limit,             ///< a size or count above what we accept
  mismatch,          ///< both sides are sound, but they do not fit together
  device,            ///< a device failed
};

/// A failure as a value: a code, a sentence, and the sentences added on the way up.
class [[nodiscard]] Error {
 public:
  Error(Errc code, std::string message, int sys_errno = 0)
      : code_(code), sys_errno_(sys_errno), chain_{std::move(message)} {}

  Errc code() const { return code_; }
  /// The errno of the system call or of the peer's error reply; 0 if there was none.
  int sys_errno() const { return sys_errno_; }

  /// Says what was being done when this happened; the newest context is read first.
  Error with_context(std::string what) && {
    chain_.push_back(std::move(what));
    return std::move(*this);
  }

  /// One line: outermost context first, causes after colons.
  std::string to_string() const;

 private:
  Errc code_;
  int sys_errno_;
  std::vector<std::string> chain_;  // innermost cause first
};

template <class T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

template <class... Args>
std::unexpected<Error> fail(Errc code, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error(code, fmt::format(format, std::forward<Args>(args)...)));
}

/// The text of an errno, for messages.
std::string errno_text(int err);

/// A failed system call: "<sentence>: <errno text>".
template <class... Args>
std::unexpected<Error> fail_errno(int err, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(
      Error(Errc::io, fmt::format(format, std::forward<Args>(args)...) + ": " + errno_text(err), err));
}

}  // namespace handover

#define HANDOVER_CONCAT2(a, b) a##b
#define HANDOVER_CONCAT(a, b) HANDOVER_CONCAT2(a, b)

#define HANDOVER_TRY_IMPL(holder, expression)                       \
  do {                                                              \
    auto holder = (expression);                                     \
    if (!holder) return std::unexpected(std::move(holder).error()); \
  } while (false)

/// Evaluates a Status or Result expression and returns its error to the caller, if it has one.
#define HANDOVER_TRY(expression) HANDOVER_TRY_IMPL(HANDOVER_CONCAT(handover_try_, __COUNTER__), expression)

#define HANDOVER_TRY_CONTEXT_IMPL(holder, expression, ...)                                                 \
  do {                                                                                                     \
    auto holder = (expression);                                                                            \
    if (!holder) return std::unexpected(std::move(holder).error().with_context(fmt::format(__VA_ARGS__))); \
  } while (false)

/// The same, with a fmt sentence added that says what was being done.
#define HANDOVER_TRY_CONTEXT(expression, ...) \
  HANDOVER_TRY_CONTEXT_IMPL(HANDOVER_CONCAT(handover_try_, __COUNTER__), expression, __VA_ARGS__)

#define HANDOVER_ASSIGN_IMPL(holder, declaration, expression)     \
  auto holder = (expression);                                     \
  if (!holder) return std::unexpected(std::move(holder).error()); \
  declaration = std::move(*holder)

/// HANDOVER_ASSIGN(auto x, f()): declares x from the value, or returns the error.
#define HANDOVER_ASSIGN(declaration, expression) \
  HANDOVER_ASSIGN_IMPL(HANDOVER_CONCAT(handover_result_, __COUNTER__), declaration, expression)

#define HANDOVER_ASSIGN_CONTEXT_IMPL(holder, declaration, expression, ...)                               \
  auto holder = (expression);                                                                            \
  if (!holder) return std::unexpected(std::move(holder).error().with_context(fmt::format(__VA_ARGS__))); \
  declaration = std::move(*holder)

#define HANDOVER_ASSIGN_CONTEXT(declaration, expression, ...)                                           \
  HANDOVER_ASSIGN_CONTEXT_IMPL(HANDOVER_CONCAT(handover_result_, __COUNTER__), declaration, expression, \
                               __VA_ARGS__)
