#include "handover/vmm/vm_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace handover::vmm {
namespace {

using testing::HasSubstr;

TEST(VmConfig, IdsAreUnique) {
  VmConfig config;
  config.devices = {{.id = "a", .socket = "/1"}, {.id = "b", .socket = "/2"}, {.id = "a", .socket = "/3"}};
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
    config.devices.push_back({.id = "d" + std::to_string(i), .socket = "/s"});
  EXPECT_TRUE(config.check());
  config.devices.push_back({.id = "one-more", .socket = "/s"});
  EXPECT_FALSE(config.check());
}

}  // namespace
}  // namespace handover::vmm
