#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "handover/base/result.h"

namespace handover {

/// Where a migration stream goes to or comes from, spelled as QEMU spells it:
/// `tcp:HOST:PORT` (IPv6 hosts in brackets), `unix:PATH`, `fd:NUMBER`, `file:PATH[,offset=N]`,
/// `exec:COMMAND`.
struct Address {
  enum class Kind { tcp, unix_socket, fd, file, exec };

  Kind kind = Kind::tcp;
  std::string host;          ///< tcp; without brackets
  std::uint16_t port = 0;    ///< tcp; 0 lets a listener pick
  std::string path;          ///< unix, file; the command line of exec
  std::uint64_t offset = 0;  ///< file: first byte
  int fd = -1;               ///< fd

  /// Fails with invalid_argument and a sentence that shows a correct spelling.
  static Result<Address> parse(std::string_view text);
  /// The spelling that parse() takes.
  std::string to_string() const;
};

}  // namespace handover
