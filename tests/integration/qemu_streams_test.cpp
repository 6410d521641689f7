// All streams that QEMU 11.1 wrote for us: devices of many kinds, VFIO, postcopy, multifd.  They are not part
// of the repository; HANDOVER_QEMU_STREAMS names the folder that has them and their manifest.json.

#include <gmock/gmock.h>

#include <map>

#include "handover/stream/inspector.h"
#include "handover/stream/return_path.h"
#include "support/memory_channel.h"
#include "support/qemu_streams.h"
#include "support/run_binary.h"
#include "unit/memory/random_seed.h"

namespace handover::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class QemuStreams : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("HANDOVER_QEMU_STREAMS");
    if (folder == nullptr) GTEST_SKIP() << "HANDOVER_QEMU_STREAMS names no folder";
    streams_ = qemu_streams(folder);
    ASSERT_FALSE(streams_.empty());
  }

  const QemuStream& named(const std::string& name) const {
    for (const auto& stream : streams_)
      if (stream.name == name) return stream;
    ADD_FAILURE() << name << " is not in the manifest";
    return streams_.front();
  }

  std::vector<QemuStream> streams_;
};

TEST_F(QemuStreams, AreWalkedToTheirLastByteWithEveryKnownFact) {
  for (const auto& stream : streams_) {
    const auto ran = run_handover("inspect --json --hash '" + stream.path + "'");
    ASSERT_EQ(ran.exit_code, 0) << stream.name << ": " << ran.err;
    const auto found = nlohmann::json::parse(ran.out);
    std::vector<std::string> differences;
    find_differences(main_channel_facts(stream), found, stream.name, differences);
    EXPECT_THAT(differences, IsEmpty());
    EXPECT_EQ(found["size"], read_whole_file(stream.path).size());
    EXPECT_EQ(found.contains("guessed_bodies"), stream.name == "pc-8m-postcopy");
  }
}

TEST_F(QemuStreams, TablesArePrintedToo) {
  for (const auto& stream : streams_) {
    const auto ran = run_handover("inspect '" + stream.path + "'");
    ASSERT_EQ(ran.exit_code, 0) << stream.name << ": " << ran.err;
    EXPECT_THAT(ran.out, HasSubstr(stream.facts["machine"].get<std::string>()));
  }
}

std::map<std::pair<std::string, std::uint32_t>, std::uint64_t> full_sizes(const stream::StreamFacts& facts) {
  std::map<std::pair<std::string, std::uint32_t>, std::uint64_t> sizes;
  for (const auto& section : facts.sections)
    if (section.header.kind == stream::Record::section_full)
      sizes[{section.header.name, section.header.instance}] = section.body_size;
  return sizes;
}

// Postcopy sends no vmdescription.  The same machine without postcopy does, and its bodies have the same
// sizes.
TEST_F(QemuStreams, GuessedBodiesHaveTheSizesOfDescribedOnes) {
  Address postcopy, precopy;
  postcopy.kind = precopy.kind = Address::Kind::file;
  postcopy.path = named("pc-8m-postcopy").path;
  precopy.path = named("pc-8m.mig").path;
  auto guessed = stream::inspect_file(postcopy, {});
  auto described = stream::inspect_file(precopy, {});
  ASSERT_TRUE(guessed) << guessed.error().to_string();
  ASSERT_TRUE(described) << described.error().to_string();
  EXPECT_EQ(full_sizes(*guessed), full_sizes(*described));
}

TEST_F(QemuStreams, ReturnPathsAreDecodedMessageByMessage) {
  int paths = 0;
  for (const auto& entry : streams_) {
    if (!entry.facts.contains("return_path_messages") || entry.facts["return_path_messages"].empty())
      continue;
    ++paths;
    const auto folder = std::filesystem::path(entry.path).parent_path();
    MemoryChannel channel(to_bytes(read_whole_file(folder / "main.rev.bin")), 3);
    stream::ReturnPathReader reader(channel);
    MemoryChannel again;
    stream::ReturnPathWriter writer(again);
    for (const auto& expected : entry.facts["return_path_messages"]) {
      auto message = reader.next();
      ASSERT_TRUE(message) << entry.name << ": " << message.error().to_string();
      EXPECT_EQ(static_cast<int>(message->type), expected[0]);
      const bool has_value = !expected[2].get<std::string>().empty();
      EXPECT_EQ(has_value ? fmt::format("{:08x}", message->value) : "", expected[2].get<std::string>());
      EXPECT_TRUE(writer.send(*message));
    }
    EXPECT_EQ(reader.next().error().code(), Errc::closed);
    EXPECT_EQ(again.output, to_bytes(read_whole_file(folder / "main.rev.bin")))
        << "we write what QEMU writes";
  }
  EXPECT_GT(paths, 5);
}

TEST_F(QemuStreams, CutAnywhereTheyAreRefusedWithTheOffset) {
  std::mt19937_64 random(random_seed());
  for (const auto& entry : streams_) {
    const std::string whole = read_whole_file(entry.path);
    for (int i = 0; i < 30; ++i) {
      const std::size_t size = random() % whole.size();
      MemoryChannel channel(to_bytes(std::string_view(whole).substr(0, size)));
      auto facts = stream::inspect_channel(channel, {.hash = i % 2 == 0});
      // Behind the EOF mark a stream is whole; only the description may be missing.
      if (facts) {
        EXPECT_EQ(whole[size - 1], '\0') << entry.name << " cut at " << size;
        EXPECT_EQ(facts->vmdescription_length, std::nullopt) << entry.name << " cut at " << size;
      } else {
        EXPECT_THAT(facts.error().to_string(), HasSubstr("offset")) << entry.name << " cut at " << size;
      }
    }
  }
}

}  // namespace
}  // namespace handover::test
