#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "handover/base/unique_fd.h"
#include "vfio_kernel/ioctl.h"

namespace handover::vfio_kernel {

/// iommufd's own test interface: what of it these tests use, as Linux 6.12 has it
/// (drivers/iommu/iommufd/iommufd_test.h).  It is no interface for programs and changes with the kernel.
namespace mock {

inline constexpr auto kTest = uapi::request(0xa0);
inline constexpr std::uint32_t kOpDeviceFlags = 12;  // IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS
inline constexpr std::uint32_t kOpDirty = 13;        // IOMMU_TEST_OP_DIRTY
inline constexpr std::uint32_t kDeviceNoDirty = 1;   // MOCK_FLAGS_DEVICE_NO_DIRTY
inline constexpr std::uint64_t kIoPageSize = 2048;   // MOCK_IO_PAGE_SIZE
inline constexpr std::uint64_t kApertureStart = 1ul << 24;

struct MakeDevice {
  std::uint32_t out_stdev_id;
  std::uint32_t out_hwpt_id;
  std::uint32_t out_idev_id;
  std::uint32_t dev_flags;
};
struct Dirty {
  std::uint32_t flags;
  std::uint32_t pad;
  std::uint64_t iova;
  std::uint64_t length;
  std::uint64_t page_size;
  std::uint64_t bits;  // pointer
  std::uint64_t out_dirty;
};
struct Command {
  std::uint32_t size;
  std::uint32_t op;
  std::uint32_t id;
  std::uint32_t reserved;
  union {
    Dirty dirty;
    MakeDevice device;
  };
  std::uint32_t last;
};
static_assert(sizeof(Command) == 72);

}  // namespace mock

/// An iommufd with an address space and a device of the kernel's imagination.
class MockIommufd {
 public:
  explicit MockIommufd(std::uint32_t device_flags = 0) : fd_(::open("/dev/iommu", O_RDWR | O_CLOEXEC)) {
    EXPECT_TRUE(fd_);
    uapi::IoasAlloc ioas{sizeof ioas, 0, 0};
    EXPECT_TRUE(call(fd_.get(), uapi::kIoasAlloc, &ioas));
    ioas_ = ioas.out_ioas_id;
    mock::Command command{};
    command.size = sizeof command;
    command.op = mock::kOpDeviceFlags;
    command.id = ioas_;
    command.device.dev_flags = device_flags;
    const auto made = call(fd_.get(), mock::kTest, &command);
    EXPECT_TRUE(made) << "is this the test VM's kernel? " << made.error().to_string();
    device_ = command.device.out_idev_id;
  }
  int fd() const { return fd_.get(); }
  std::uint32_t ioas() const { return ioas_; }
  std::uint32_t device() const { return device_; }

  /// Makes one of the IOMMU's pages dirty; `table` must be tracking.  False: nothing is mapped there.
  bool write(std::uint32_t table, std::uint64_t iova) const {
    const std::uint64_t bit = 1;
    mock::Command command{};
    command.size = sizeof command;
    command.op = mock::kOpDirty;
    command.id = table;
    command.dirty = {.flags = 0,
                     .pad = 0,
                     .iova = iova,
                     .length = mock::kIoPageSize,
                     .page_size = mock::kIoPageSize,
                     .bits = reinterpret_cast<std::uintptr_t>(&bit),
                     .out_dirty = 0};
    const auto done = call(fd_.get(), mock::kTest, &command);
    EXPECT_TRUE(done) << done.error().to_string();
    return command.dirty.out_dirty == 1;
  }

 private:
  UniqueFd fd_;
  std::uint32_t ioas_ = 0;
  std::uint32_t device_ = 0;
};

}  // namespace handover::vfio_kernel
