#include "channel/file_channel.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <filesystem>

#include "channel/fd_channel.h"
#include "handover/base/log.h"
#include "handover/channel/positioned_file.h"

namespace handover {

class FileChannel final : public Channel {
 public:
  FileChannel(UniqueFd fd, bool regular, bool writing, const Address& address)
      : regular_(regular),
        writing_(writing),
        path_(address.path),
        name_(address.to_string()),
        file_(std::move(fd), name_, address.offset),
        fd_(file_.fd_),
        shut_(file_.shut_) {}

  Result<std::size_t> read_some(std::span<const iovec> buffers) override {
    const auto count = static_cast<int>(std::min<std::size_t>(buffers.size(), IOV_MAX));
    for (;;) {
      HANDOVER_TRY(shut_.token().check());
      const ssize_t got = ::readv(fd_.get(), buffers.data(), count);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) return fail_errno(errno, "cannot read from {}", name_);
    }
  }

  Status write_all(std::span<const iovec> buffers) override {
    RemainingBuffers left(buffers);
    while (!left.empty()) {
      HANDOVER_TRY(shut_.token().check());
      const ssize_t put = ::writev(fd_.get(), left.next().data(), static_cast<int>(left.next().size()));
      if (put >= 0)
        left.advance(static_cast<std::size_t>(put));
      else if (errno != EINTR)
        return fail_errno(errno, "cannot write to {}", name_);
    }
    return shut_.token().check();
  }

  Result<std::uint64_t> skip_some(std::uint64_t count) override {
    struct stat info{};
    const off_t at = ::lseek(fd_.get(), 0, SEEK_CUR);
    // Never past the end: the end must still be found by reading.
    if (!regular_ || at < 0 || ::fstat(fd_.get(), &info) < 0 || at >= info.st_size) return 0;
    const auto far = std::min<std::uint64_t>(count, static_cast<std::uint64_t>(info.st_size - at));
    if (::lseek(fd_.get(), static_cast<off_t>(far), SEEK_CUR) < 0)
      return fail_errno(errno, "cannot seek in {}", name_);
    return far;
  }

  void shutdown() override { shut_.cancel(name_ + " was shut down"); }
  bool two_way() const override { return false; }
  const std::string& name() const override { return name_; }
  PositionedFile* file() override { return regular_ ? &file_ : nullptr; }

  void discard() override {
    if (regular_ && writing_ && ::ftruncate(fd_.get(), static_cast<off_t>(file_.start())) < 0)
      log::error("{} holds part of a stream and cannot be cut off: {}", name_, errno_text(errno));
  }

  Status commit() override {
    HANDOVER_TRY(shut_.token().check());
    // A character device such as /dev/null has nothing to make durable.
    if (!regular_)
      return ::fsync(fd_.get()) == 0 || errno == EINVAL ? Status{}
                                                        : fail_errno(errno, "cannot sync {}", name_);
    if (::fsync(fd_.get()) < 0) return fail_errno(errno, "cannot make {} durable", name_);
    return commit_name();
  }

 private:
  /// A new file is durable once the directory that names it is.
  Status commit_name() {
    auto folder = std::filesystem::path(path_).parent_path();
    if (folder.empty()) folder = ".";
    UniqueFd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory && errno == EACCES) return {};  // a folder that we may write to but not read
    if (!directory || ::fsync(directory.get()) < 0)
      return fail_errno(errno, "cannot make {} durable in its directory", name_);
    return {};
  }

  bool regular_;
  bool writing_;
  std::string path_;
  std::string name_;
  PositionedFile file_;
  const UniqueFd& fd_;
  CancelSource& shut_;
};

namespace {

Result<std::unique_ptr<Channel>> open_channel(const Address& address, int flags) {
  // O_NONBLOCK keeps the open of a FIFO from waiting for its other end; plain files do not know it.
  UniqueFd fd(::open(address.path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0600));
  if (!fd) return fail_errno(errno, "cannot open {}", address.to_string());
  struct stat info{};
  if (::fstat(fd.get(), &info) < 0) return fail_errno(errno, "cannot open {}", address.to_string());
  const bool regular = S_ISREG(info.st_mode);
  if (S_ISDIR(info.st_mode))
    return fail(Errc::invalid_argument, "{} is a directory, not a file", address.path);
  if (!regular && !S_ISBLK(info.st_mode) && !S_ISCHR(info.st_mode))
    return fail(Errc::invalid_argument, "{} is not a file; use fd:NUMBER for pipes and unix:PATH for sockets",
                address.path);
  const auto offset = static_cast<off_t>(address.offset);
  const bool writing = (flags & O_ACCMODE) != O_RDONLY;
  if (writing && regular && ::ftruncate(fd.get(), offset) < 0)
    return fail_errno(errno, "cannot cut {} off at its offset", address.to_string());
  if (!writing && regular && offset > info.st_size)
    return fail(Errc::invalid_argument, "{} has only {} bytes, offset {} is behind its end", address.path,
                info.st_size, offset);
  if (offset != 0 && ::lseek(fd.get(), offset, SEEK_SET) < 0)
    return fail_errno(errno, "cannot seek in {}", address.to_string());
  return std::make_unique<FileChannel>(std::move(fd), regular, writing, address);
}

}  // namespace

Result<std::unique_ptr<Channel>> create_file_channel(const Address& address) {
  return open_channel(address, O_WRONLY | O_CREAT);
}

Result<std::unique_ptr<Channel>> open_file_channel(const Address& address) {
  return open_channel(address, O_RDONLY);
}

}  // namespace handover
