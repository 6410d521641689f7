#include "handover/vmm/device_options.h"

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

TEST(DeviceOption, ADeviceOfTheKernelIsNamedAsInQemu) {
  const DeviceOptions expected{
      .id = "vf", .kind = DeviceOptions::Kind::vfio_pci, .host = "0000:41:00.3", .slot = 4};
  EXPECT_EQ(parse_device_option("vfio-pci,host=0000:41:00.3,id=vf,slot=4").value(), expected);
  EXPECT_EQ(parse_device_option("vfio:0000:41:00.3,id=vf,slot=4").value(), expected);
  EXPECT_EQ(parse_device_option("vfio-pci,sysfsdev=/sys/bus/mdev/devices/u,id=t").value().host,
            "/sys/bus/mdev/devices/u");
  EXPECT_EQ(parse_device_option("vfio-pci,fd=9,id=t").value().host, "fd=9");
  EXPECT_EQ(parse_device_option("vfio-pci,iommufd=10,id=t,fd=9").value().host, "fd=9,iommufd=10");
}

TEST(DeviceOption, EveryErrorShowsTheCorrectSpelling) {
  for (const char* wrong : {"",
                            "vfio-user",
                            "nvme,socket=a,id=b",
                            "vfio-user,socket=a",
                            "vfio-user,id=b",
                            "vfio-user,socket=a,id=",
                            "vfio-user,socket=a,id=b,",
                            "vfio-user,socket=a,id=b,id=c",
                            "vfio-user,socket=a,id=b c",
                            "vfio-user,socket,id=b",
                            "vfio-user,path=a,id=b",
                            ",",
                            "vfio-user,,id=b,socket=a",
                            "vfio-pci,id=a",
                            "vfio-pci,socket=a,id=b",
                            "vfio-user,host=a,id=b",
                            "vfio-pci,host=a,sysfsdev=/sys/b,id=c",
                            "vfio:,id=a",
                            "vfio-pci,host=a,iommufd=4,id=b",
                            "vfio:0000:41:00.3"}) {
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

}  // namespace
}  // namespace handover::vmm
