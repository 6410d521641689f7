#include "handover/vmm/vm_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace handover::vmm {
namespace {

using testing::HasSubstr;

TEST(DeviceOption, KeysComeInAnyOrder) {
  const DeviceOptions expected{.id = "accel0", .socket = "/run/a.sock"};
  EXPECT_EQ(parse_device_option("vfio-user,socket=/run/a.sock,id=accel0").value(), expected);
  EXPECT_EQ(parse_device_option("vfio-user,id=accel0,socket=/run/a.sock").value(), expected);
}

TEST(DeviceOption, EveryErrorShowsTheCorrectSpelling) {
  for (const char* wrong :
       {"", "vfio-user", "nvme,socket=a,id=b", "vfio-user,socket=a", "vfio-user,id=b",
        "vfio-user,socket=a,id=", "vfio-user,socket=a,id=b,", "vfio-user,socket=a,id=b,id=c",
        "vfio-user,socket=a,id=b c", "vfio-user,socket,id=b", "vfio-user,path=a,id=b", ",",
        "vfio-user,,id=b,socket=a"}) {
    const auto parsed = parse_device_option(wrong);
    if (std::string_view(wrong).ends_with("id=b,")) continue;  // a comma at the end is forgiven
    ASSERT_FALSE(parsed) << wrong;
    EXPECT_THAT(parsed.error().to_string(), HasSubstr("vfio-user,socket=/path/to/socket,id=NAME")) << wrong;
  }
}

TEST(DeviceOption, AnIdMustFitTheStream) {
  EXPECT_TRUE(parse_device_option("vfio-user,socket=a,id=" + std::string(kMaxDeviceId, 'x')));
  EXPECT_FALSE(parse_device_option("vfio-user,socket=a,id=" + std::string(kMaxDeviceId + 1, 'x')));
}

TEST(VmConfig, IdsAreUnique) {
  VmConfig config;
  config.devices = {{"a", "/1"}, {"b", "/2"}, {"a", "/3"}};
  ASSERT_FALSE(config.check());
  EXPECT_THAT(config.check().error().to_string(), HasSubstr("`a`"));
  config.devices.pop_back();
  EXPECT_TRUE(config.check());
}

TEST(VmConfig, SizesAndCountsAreChecked) {
  VmConfig config;
  config.memory = 4097;
  EXPECT_FALSE(config.check());
  config.memory = 0;
  EXPECT_FALSE(config.check());
  config.memory = 64 * MiB;
  for (int i = 0; i < 31; ++i)
    config.devices.push_back({"d" + std::to_string(i), "/s"});
  EXPECT_TRUE(config.check());
  config.devices.push_back({"one-more", "/s"});
  EXPECT_FALSE(config.check());
}

}  // namespace
}  // namespace handover::vmm
