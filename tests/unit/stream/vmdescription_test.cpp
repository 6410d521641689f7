#include "handover/stream/vmdescription.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "handover/stream/format.h"
#include "support/memory_channel.h"
#include "support/temp_folder.h"

namespace handover::stream {
namespace {

using test::MemoryChannel;
using test::to_bytes;
using testing::HasSubstr;
using namespace std::string_literals;

struct Timer {
  std::int64_t ticks = 0;
  std::int64_t clock = 0;
};

struct GlobalState {
  std::uint32_t size = 10;
  std::string run_state = "prelaunch";
  std::uint8_t has_suspended = 1;
  std::uint8_t suspended = 0;
  std::array<std::byte, 66> unused{};
};

/// What QEMU's machine `none` describes, and so what a whole sample file of it says at its end.
std::string described_like_the_sample(const Configuration& configuration) {
  const auto timer = vmstate::Describe<Timer>("timer", 2)
                         .field("cpu_ticks_offset", &Timer::ticks)
                         .unused(8)
                         .field("cpu_clock_offset", &Timer::clock)
                         .done();
  const auto state = vmstate::Describe<GlobalState>("globalstate", 1)
                         .field("size", &GlobalState::size)
                         .fixed_text("runstate", &GlobalState::run_state, 32)
                         .field("has_vm_was_suspended", &GlobalState::has_suspended)
                         .field("vm_was_suspended", &GlobalState::suspended)
                         .buffer("unused", &GlobalState::unused)
                         .done();
  const Timer timer_object;
  const GlobalState state_object;
  VmdescriptionBuilder builder(configuration);
  builder.add("timer", 0, *timer, &timer_object);
  builder.add("globalstate", 0, *state, &state_object);
  return builder.text();
}

TEST(Vmdescription, TextIsQemusToTheLastCharacter) {
  const std::string folder = HANDOVER_TEST_DATA "/qemu-streams/";
  const auto plain = described_like_the_sample({.machine = "none"});
  EXPECT_EQ(plain.size(), 823u);
  EXPECT_TRUE(test::read_whole_file(folder + "none-empty.mig").ends_with(plain));
  const auto mapped = described_like_the_sample({.machine = "none", .capabilities = {"mapped-ram"}});
  EXPECT_EQ(mapped.size(), 1024u);
  EXPECT_TRUE(test::read_whole_file(folder + "none-512k-mapped-ram.mig").ends_with(mapped));
}

TEST(Vmdescription, RawSectionsHaveTheirSizeOnly) {
  VmdescriptionBuilder builder({.machine = "m"});
  builder.add_raw("0000:00:01.0/vfio", 2, 292);
  EXPECT_THAT(builder.text(),
              HasSubstr(R"("devices": [{"name": "0000:00:01.0/vfio", "instance_id": 2, "size": 292, )"
                        R"("fields": [{"name": "data", "size": 292, "type": "buffer"}]}]})"));
}

TEST(Vmdescription, NamesWithAnyBytesStayJson) {
  VmdescriptionBuilder builder({.machine = "quote\" and \xff"});
  builder.add_raw("a\"b\\c\n", 0, 1);
  EXPECT_TRUE(nlohmann::json::accept(builder.text())) << builder.text();
}

TEST(Vmdescription, RecordIsReadBackAndMayBeMissing) {
  MemoryChannel sink;
  StreamWriter out(sink);
  write_vmdescription(out, "{}");
  write_vmdescription(out, "");
  ASSERT_TRUE(out.flush());
  MemoryChannel source(sink.output);
  StreamReader in(source);
  EXPECT_EQ(read_vmdescription(in).value(), "{}");
  EXPECT_EQ(read_vmdescription(in).value(), "");
  EXPECT_EQ(read_vmdescription(in).value(), std::nullopt);
}

TEST(Vmdescription, ForeignRecordsAreRefused) {
  const std::pair<std::string, const char*> cases[] = {
      {"\1"s, "byte 0x01 at offset 0"},
      {"\6\xff\xff\xff\xff"s, "claims 4294967295 bytes"},
      {"\6\3\0\0\0abc"s, "in the vmdescription"},  // 48 MiB are claimed, three bytes are there
  };
  for (const auto& [bytes, part] : cases) {
    MemoryChannel channel(to_bytes(bytes));
    StreamReader in(channel);
    auto text = read_vmdescription(in);
    ASSERT_FALSE(text);
    EXPECT_THAT(text.error().to_string(), HasSubstr(part));
  }
}

}  // namespace
}  // namespace handover::stream
