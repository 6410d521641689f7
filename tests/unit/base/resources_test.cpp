#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "handover/base/mapping.h"
#include "handover/base/unique_fd.h"

namespace handover {
namespace {

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

UniqueFd make_file(off_t size) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(::ftruncate(fd.get(), size), 0);
  return fd;
}

TEST(UniqueFd, ClosesOnceAndOnlyWhatItStillOwns) {
  int number = -1;
  {
    UniqueFd first = make_file(0);
    number = first.get();
    UniqueFd second = std::move(first);
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): a moved-from descriptor is empty
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));

  UniqueFd released = make_file(0);
  const int kept = released.release();
  released.reset();
  EXPECT_TRUE(is_open(kept));
  ::close(kept);
}

TEST(UniqueFd, DuplicateIsIndependentAndCloseOnExec) {
  UniqueFd first = make_file(0);
  UniqueFd copy = first.duplicate();
  ASSERT_TRUE(copy);
  EXPECT_NE(copy.get(), first.get());
  EXPECT_EQ(::fcntl(copy.get(), F_GETFD), FD_CLOEXEC);
  first.reset();
  EXPECT_TRUE(is_open(copy.get()));
  EXPECT_FALSE(UniqueFd().duplicate());
}

TEST(Mapping, SharedMemoryIsTheFile) {
  UniqueFd fd = make_file(8192);
  auto mapping = Mapping::shared(fd.get(), 4096, 4096, PROT_READ | PROT_WRITE);
  ASSERT_TRUE(mapping);
  std::memcpy(mapping->data(), "hello", 5);
  char text[5];
  ASSERT_EQ(::pread(fd.get(), text, 5, 4096), 5);
  EXPECT_EQ(std::memcmp(text, "hello", 5), 0);
}

TEST(Mapping, MovesWithoutUnmapping) {
  auto made = Mapping::anonymous(4096);
  ASSERT_TRUE(made);
  Mapping first = std::move(*made);
  first.data()[0] = std::byte{7};
  Mapping second;
  second = std::move(first);
  EXPECT_EQ(second.data()[0], std::byte{7});
  EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): a moved-from mapping is empty
  EXPECT_EQ(second.size(), 4096u);
}

TEST(Mapping, RefusalsSayWhatWasAskedFor) {
  auto bad = Mapping::shared(-1, 0, 4096, PROT_READ);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().sys_errno(), EBADF);
  EXPECT_NE(bad.error().to_string().find("4096 bytes"), std::string::npos);
  EXPECT_FALSE(Mapping::anonymous(0));
}

}  // namespace
}  // namespace handover
