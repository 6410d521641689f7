#pragma once

#include "handover/base/result.h"

namespace handover::vfio_user {

/// A refusal with the errno that the client gets.
template <class... Args>
std::unexpected<Error> refuse(int err, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(
      Error(Errc::invalid_argument, fmt::format(format, std::forward<Args>(args)...), err));
}
/// The errno of a reply for an error of whatever origin; never 0.
int errno_of(const Error& error);

}  // namespace handover::vfio_user
