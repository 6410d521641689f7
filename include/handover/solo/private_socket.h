#pragma once

#include <string>

#include "handover/base/result.h"
#include "handover/channel/address.h"

namespace handover::solo {

/// A place for a UNIX socket that only this user reaches, in a folder of its own that goes with the object:
/// for a source and a destination in one process.
class PrivateSocket {
 public:
  static Result<PrivateSocket> create();
  PrivateSocket(PrivateSocket&& other) noexcept : folder_(std::exchange(other.folder_, {})) {}
  PrivateSocket& operator=(PrivateSocket&&) = delete;
  ~PrivateSocket();

  Address address() const;

 private:
  explicit PrivateSocket(std::string folder) : folder_(std::move(folder)) {}
  std::string folder_;
};

}  // namespace handover::solo
