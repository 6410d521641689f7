#include "handover/base/mapping.h"

#include <sys/mman.h>

#include <cerrno>

namespace handover {

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    if (data_) ::munmap(data_, size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Mapping::~Mapping() {
  if (data_) ::munmap(data_, size_);
}

Result<Mapping> Mapping::shared(int fd, std::uint64_t offset, std::uint64_t size, int prot) {
  void* at = ::mmap(nullptr, size, prot, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (at == MAP_FAILED) return fail_errno(errno, "cannot map {} bytes at file offset {}", size, offset);
  return Mapping(static_cast<std::byte*>(at), size);
}

Result<Mapping> Mapping::anonymous(std::uint64_t size) {
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return fail_errno(errno, "cannot allocate {} bytes", size);
  return Mapping(static_cast<std::byte*>(at), size);
}

}  // namespace handover
