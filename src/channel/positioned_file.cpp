#include "handover/channel/positioned_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "handover/base/log.h"

namespace handover {
namespace {

/// What O_DIRECT wants of positions, addresses and sizes: the largest logical block that disks have.
constexpr std::uint64_t kDirectUnit = 4096;

bool is_aligned(std::uint64_t position, const void* at, std::size_t size) {
  return position % kDirectUnit == 0 && size % kDirectUnit == 0 &&
         reinterpret_cast<std::uintptr_t>(at) % kDirectUnit == 0;
}

}  // namespace

PositionedFile::PositionedFile(UniqueFd fd, std::string name, std::uint64_t start)
    : fd_(std::move(fd)), name_(std::move(name)), start_(start) {
}

Result<std::uint64_t> PositionedFile::size() const {
  struct stat info{};
  if (::fstat(fd_.get(), &info) < 0) return fail_errno(errno, "cannot tell the size of {}", name_);
  return static_cast<std::uint64_t>(info.st_size);
}

int PositionedFile::choose(bool aligned) const {
  return aligned && use_direct_.load(std::memory_order_relaxed) ? direct_.get() : fd_.get();
}

void PositionedFile::leave_direct() {
  if (use_direct_.exchange(false))
    log::warn("{} refuses direct I/O of its pages; they go through the page cache", name_);
}

// `call(fd, done)` moves what is left after `done` bytes; 0 from it ends the transfer.
template <class Call>
Status PositionedFile::transfer(std::string_view doing, std::uint64_t position, std::size_t size,
                                bool aligned, Call call) {
  for (std::size_t done = 0; done < size;) {
    HANDOVER_TRY(shut_.token().check());
    // A short transfer may leave a rest that is not aligned any more.
    const int fd = choose(aligned && done % kDirectUnit == 0);
    const ssize_t moved = call(fd, done);
    if (moved > 0) {
      done += static_cast<std::size_t>(moved);
    } else if (moved == 0) {
      return fail(Errc::closed, "{} ends at byte {}, {} bytes too early", name_, position + done,
                  size - done);
    } else if (errno == EINVAL && fd != fd_.get()) {
      leave_direct();
    } else if (errno != EINTR) {
      return fail_errno(errno, "cannot {} {} at byte {}", doing, name_, position + done);
    }
  }
  return {};
}

Status PositionedFile::read_at(std::uint64_t position, std::span<std::byte> to) {
  return transfer(
      "read", position, to.size(), is_aligned(position, to.data(), to.size()), [&](int fd, std::size_t done) {
        return ::pread(fd, to.data() + done, to.size() - done, static_cast<off_t>(position + done));
      });
}

Status PositionedFile::write_at(std::uint64_t position, std::span<const std::byte> from) {
  return transfer("write to", position, from.size(), is_aligned(position, from.data(), from.size()),
                  [&](int fd, std::size_t done) {
                    return ::pwrite(fd, from.data() + done, from.size() - done,
                                    static_cast<off_t>(position + done));
                  });
}

void PositionedFile::drop(std::uint64_t position, std::uint64_t count) {
  if (shut_.cancelled()) return;
  // What the bitmap says counts; the space is a courtesy.
  (void)::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(position),
                    static_cast<off_t>(count));
}

bool PositionedFile::go_direct() {
  const int mode = ::fcntl(fd_.get(), F_GETFL) & O_ACCMODE;
  // The same open file, whatever its name has become since.
  UniqueFd fd(::open(fmt::format("/proc/self/fd/{}", fd_.get()).c_str(), mode | O_DIRECT | O_CLOEXEC));
  if (!fd) return false;
  direct_ = std::move(fd);
  use_direct_.store(true, std::memory_order_relaxed);
  return true;
}

Result<std::uint64_t> PositionedFile::tell() const {
  const off_t at = ::lseek(fd_.get(), 0, SEEK_CUR);
  if (at < 0) return fail_errno(errno, "cannot tell the position in {}", name_);
  return static_cast<std::uint64_t>(at);
}

Status PositionedFile::seek(std::uint64_t position) {
  HANDOVER_TRY(shut_.token().check());
  if (::lseek(fd_.get(), static_cast<off_t>(position), SEEK_SET) < 0)
    return fail_errno(errno, "cannot seek to byte {} of {}", position, name_);
  return {};
}

}  // namespace handover
