#include "migration/snapshot_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

namespace handover {
namespace {

constexpr const char* kSuffix = ".partial";

/// True if the name still belongs to the open file.
bool is_named(int fd, const std::string& name) {
  struct stat open_file{};
  struct stat named{};
  return ::fstat(fd, &open_file) == 0 && ::lstat(name.c_str(), &named) == 0 &&
         open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino;
}

}  // namespace

Result<std::unique_ptr<SnapshotFile>> SnapshotFile::create(std::string path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    return fail(Errc::invalid_argument, "{} exists and is no regular file; choose another name", path);
  HANDOVER_ASSIGN(auto lock, lock_partial(path + kSuffix));
  return std::unique_ptr<SnapshotFile>(new SnapshotFile(std::move(path), std::move(lock)));
}

Result<UniqueFd> SnapshotFile::lock_partial(const std::string& name) {
  for (;;) {
    UniqueFd fd(::open(name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
    struct stat info{};
    if (!fd || ::fstat(fd.get(), &info) < 0) return fail_errno(errno, "cannot create {}", name);
    if (!S_ISREG(info.st_mode))
      return fail(Errc::invalid_argument, "{} is in the way and is no regular file; remove it", name);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) {
      if (errno == EINTR) continue;
      if (errno == EWOULDBLOCK)
        return fail(Errc::state,
                    "{} is being written already; wait for that snapshot, or choose another name", name);
      // A file system without locks cannot tell two writers apart.
      if (errno != ENOLCK && errno != EOPNOTSUPP) return fail_errno(errno, "cannot lock {}", name);
    }
    // Its writer may have finished or given up between the two calls.
    if (!is_named(fd.get(), name)) continue;
    if (::fchmod(fd.get(), 0600) < 0) return fail_errno(errno, "cannot protect {}", name);
    return fd;
  }
}

SnapshotFile::~SnapshotFile() {
  const auto name = path_ + kSuffix;
  if (!published_ && is_named(lock_.get(), name)) ::unlink(name.c_str());
}

Address SnapshotFile::partial() const {
  Address address;
  address.kind = Address::Kind::file;
  address.path = path_ + kSuffix;
  return address;
}

Status SnapshotFile::publish() {
  const auto name = path_ + kSuffix;
  if (!is_named(lock_.get(), name))
    return fail(Errc::state, "{} was removed or replaced while it was written", name);
  if (::rename(name.c_str(), path_.c_str()) < 0) return fail_errno(errno, "cannot give {} its name", path_);
  published_ = true;
  auto folder = std::filesystem::path(path_).parent_path();
  if (folder.empty()) folder = ".";
  UniqueFd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory && errno == EACCES) return {};  // a folder that we may write to but not read
  if (!directory || ::fsync(directory.get()) < 0)
    return fail_errno(errno, "{} is written, but its name may be lost if the host fails", path_);
  return {};
}

}  // namespace handover
