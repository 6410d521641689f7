#include "vfio_kernel/ioctl.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace handover::vfio_kernel {
namespace {

/// Far more than any kernel's answer.
constexpr std::size_t kMostAnswer = 1 << 20;

}  // namespace

Result<int> call(int fd, unsigned long request, void* argument) {
  for (;;) {
    const int done = ::ioctl(fd, request, argument);
    if (done >= 0) return done;
    if (const int err = errno; err != EINTR)
      return std::unexpected(Error(Errc::device, errno_text(err), err));
  }
}

Result<int> call(int fd, unsigned long request, unsigned long value) {
  for (;;) {
    const int done = ::ioctl(fd, request, value);
    if (done >= 0) return done;
    if (const int err = errno; err != EINTR)
      return std::unexpected(Error(Errc::device, errno_text(err), err));
  }
}

Result<std::vector<std::byte>> ask_with_chain(int fd, unsigned long request,
                                              std::span<const std::byte> question) {
  std::vector<std::byte> answer(question.begin(), question.end());
  for (;;) {
    auto argsz = static_cast<std::uint32_t>(answer.size());
    std::memcpy(answer.data(), &argsz, sizeof argsz);
    HANDOVER_TRY(call(fd, request, answer.data()));
    std::memcpy(&argsz, answer.data(), sizeof argsz);
    if (argsz <= answer.size()) return answer;
    if (argsz > kMostAnswer) return fail(Errc::limit, "the kernel wants {} bytes for an answer", argsz);
    answer.assign(argsz, std::byte{0});
    std::ranges::copy(question, answer.begin());
  }
}

std::span<const std::byte> find_capability(std::span<const std::byte> structure, std::uint32_t first,
                                           std::uint16_t id) {
  // Each step forward or back is one capability; there cannot be more than fit.
  auto left = structure.size() / sizeof(uapi::CapabilityHeader);
  for (auto at = first; at != 0 && left > 0; --left) {
    uapi::CapabilityHeader header;
    if (at > structure.size() || structure.size() - at < sizeof header) break;
    std::memcpy(&header, structure.data() + at, sizeof header);
    if (header.id == id) return structure.subspan(at);
    at = header.next;
  }
  return {};
}

Status device_feature(int device, std::uint32_t flags, std::span<std::byte> data) {
  std::vector<std::byte> bytes(sizeof(uapi::Feature) + data.size());
  const uapi::Feature head{static_cast<std::uint32_t>(bytes.size()), flags};
  std::memcpy(bytes.data(), &head, sizeof head);
  std::ranges::copy(data, bytes.begin() + sizeof head);
  HANDOVER_TRY(call(device, uapi::kDeviceFeature, bytes.data()));
  std::copy(bytes.begin() + sizeof head, bytes.end(), data.begin());
  return {};
}

bool has_feature(int device, std::uint32_t feature, std::uint32_t directions) {
  uapi::Feature probe{sizeof(uapi::Feature), uapi::kFeatureProbe | directions | feature};
  return call(device, uapi::kDeviceFeature, &probe).has_value();
}

}  // namespace handover::vfio_kernel
