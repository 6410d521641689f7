#include "handover/solo/private_socket.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>

namespace handover::solo {

Result<PrivateSocket> PrivateSocket::create() {
  std::error_code no_folder;
  const auto base = std::filesystem::temp_directory_path(no_folder);
  auto pattern = ((no_folder ? std::filesystem::path("/tmp") : base) / "handover-XXXXXX").string();
  // mkdtemp() makes it with mode 0700.
  if (!::mkdtemp(pattern.data())) return fail_errno(errno, "cannot make a folder like {}", pattern);
  return PrivateSocket(std::move(pattern));
}

PrivateSocket::~PrivateSocket() {
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
}

Address PrivateSocket::address() const {
  Address address;
  address.kind = Address::Kind::unix_socket;
  address.path = folder_ + "/migration";
  return address;
}

}  // namespace handover::solo
