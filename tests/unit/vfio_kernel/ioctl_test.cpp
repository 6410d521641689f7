#include "vfio_kernel/ioctl.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "handover/vfio_kernel/open_device.h"
#include "unit/memory/random_seed.h"

namespace handover::vfio_kernel {
namespace {

struct Chain {
  std::vector<std::byte> bytes = std::vector<std::byte>(32);
  std::uint32_t first = 0;
  std::uint32_t last = 0;

  std::uint32_t add(std::uint16_t id, std::size_t content) {
    const auto at = static_cast<std::uint32_t>(bytes.size());
    bytes.resize(bytes.size() + sizeof(uapi::CapabilityHeader) + content);
    set(at, {id, 1, 0});
    if (first == 0)
      first = at;
    else
      link(last, at);
    return last = at;
  }
  void set(std::uint32_t at, uapi::CapabilityHeader header) {
    std::memcpy(bytes.data() + at, &header, sizeof header);
  }
  void link(std::uint32_t at, std::uint32_t next) {
    uapi::CapabilityHeader header;
    std::memcpy(&header, bytes.data() + at, sizeof header);
    header.next = next;
    set(at, header);
  }
};

TEST(CapabilityChain, ACapabilityIsFoundWhereverItStands) {
  Chain chain;
  chain.add(7, 4);
  const auto wanted = chain.add(1, 24);
  chain.add(2, 8);
  const auto found = find_capability(chain.bytes, chain.first, 1);
  EXPECT_EQ(found.data(), chain.bytes.data() + wanted);
  EXPECT_TRUE(find_capability(chain.bytes, chain.first, 3).empty());
  EXPECT_TRUE(find_capability(chain.bytes, 0, 1).empty()) << "no chain at all";
}

TEST(CapabilityChain, OneThatGoesInCirclesEnds) {
  Chain chain;
  const auto first = chain.add(7, 0);
  const auto second = chain.add(8, 0);
  chain.link(second, first);
  EXPECT_TRUE(find_capability(chain.bytes, chain.first, 1).empty());
  chain.link(first, first);
  EXPECT_TRUE(find_capability(chain.bytes, chain.first, 1).empty());
}

TEST(CapabilityChain, AnyBytesAreSurvived) {
  std::mt19937_64 random(test::random_seed());
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bytes(random() % 200);
    for (auto& byte : bytes)
      byte = static_cast<std::byte>(random() % 40);
    const auto found = find_capability(bytes, static_cast<std::uint32_t>(random() % 300), 1);
    if (found.empty()) continue;
    EXPECT_GE(found.size(), sizeof(uapi::CapabilityHeader));
  }
}

TEST(OpenDevice, NamesThatNameNothingAreToldWhatTheyCouldBe) {
  for (const auto* where : {"eth0", "", "41:00", "/tmp", "vfio0"}) {
    const auto device = open_device({.id = "nic", .where = where});
    ASSERT_FALSE(device) << where;
    EXPECT_NE(device.error().to_string().find("0000:41:00.3"), std::string::npos)
        << device.error().to_string();
    EXPECT_NE(device.error().to_string().find("`nic`"), std::string::npos);
  }
}

TEST(OpenDevice, ADeviceThatIsNotThereIsNamedWithItsPlace) {
  for (const auto& [where, place] :
       {std::pair{"ff:1f.7", "/sys/bus/pci/devices/0000:ff:1f.7"},
        {"/sys/bus/mdev/devices/no-such-uuid", "/sys/bus/mdev/devices/no-such-uuid"},
        {"/dev/vfio/devices/vfio999", "/sys/class/vfio-dev/vfio999/device"}}) {
    const auto device = open_device({.id = "nic", .where = where});
    ASSERT_FALSE(device) << where;
    EXPECT_EQ(device.error().code(), Errc::not_found);
    EXPECT_NE(device.error().to_string().find(place), std::string::npos) << device.error().to_string();
  }
}

}  // namespace
}  // namespace handover::vfio_kernel
