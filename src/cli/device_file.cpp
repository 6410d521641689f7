#include "cli/device_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string_view>

#include "handover/base/unique_fd.h"

namespace handover::cli {

namespace fs = std::filesystem;

Result<Address> file_or_address(const std::string& text) {
  for (const std::string_view scheme : {"tcp:", "unix:", "fd:", "file:", "exec:"})
    if (text.starts_with(scheme)) return Address::parse(text);
  if (text.empty()) return fail(Errc::invalid_argument, "the name of the file is empty");
  Address address;
  address.kind = Address::Kind::file;
  address.path = text;
  return address;
}

Result<SaveFile> SaveFile::create(const std::string& text) {
  HANDOVER_ASSIGN(auto address, file_or_address(text));
  if (address.kind == Address::Kind::exec) return SaveFile(std::move(address), {});
  if (address.kind != Address::Kind::file)
    return fail(
        Errc::invalid_argument,
        "a state is saved to a file or with exec:COMMAND; `handover device migrate` takes a device to {}",
        address.to_string());
  if (address.offset != 0)
    return fail(Errc::invalid_argument, "a state is saved to a file of its own, without an offset");
  std::error_code no_such_file;
  const auto real = fs::canonical(address.path, no_such_file);
  if (!no_such_file) {
    std::error_code unknown;
    if (!fs::is_regular_file(real, unknown)) return SaveFile(std::move(address), {});
    address.path = real.string();  // a link goes on pointing to it
  }
  auto final_name = address.path;
  address.path = fmt::format("{}.partial-{}", final_name, ::getpid());
  return SaveFile(std::move(address), std::move(final_name));
}

SaveFile::SaveFile(SaveFile&& other) noexcept
    : address_(std::move(other.address_)), final_name_(std::exchange(other.final_name_, {})) {
}

SaveFile::~SaveFile() {
  if (!final_name_.empty()) ::unlink(address_.path.c_str());
}

Status SaveFile::keep() {
  if (final_name_.empty()) return {};
  if (std::rename(address_.path.c_str(), final_name_.c_str()) != 0)
    return fail_errno(errno, "cannot give {} its name {}", address_.path, final_name_);
  const auto name = std::exchange(final_name_, {});
  auto folder = fs::path(name).parent_path();
  if (folder.empty()) folder = ".";
  UniqueFd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory && errno == EACCES) return {};  // a folder that we may write to but not read
  if (!directory || ::fsync(directory.get()) < 0)
    return fail_errno(errno, "cannot make {} durable in its folder", name);
  return {};
}

}  // namespace handover::cli
