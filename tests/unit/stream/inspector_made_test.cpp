// The inspector over what no sample file has: deltas, huge pages, packages, sections that nobody describes,
// and every way in which a RAM or VFIO body can be wrong.

#include <gmock/gmock.h>

#include "unit/stream/made_stream.h"

namespace handover::stream {
namespace {

using test::MadeStream;
using test::to_bytes;
using testing::ElementsAre;
using testing::HasSubstr;
using namespace std::string_literals;

constexpr std::uint64_t kNamed = ram::kPage;

TEST(InspectorRam, DeltasAreAppliedToThePage) {
  std::string hashes[2];
  for (bool delta : {false, true}) {
    MadeStream made;
    made.ram_start(2);
    made.ram_part([&] {
      made.out.be64(kPageSize | kNamed);
      made.out.str8("m0");
      std::string page(kPageSize, 'a');
      if (!delta) page.replace(3, 2, "XY").replace(300, 1, "Z");
      made.out.text(page);
      if (!delta) return;
      made.out.be64(kPageSize | ram::kXbzrle | ram::kContinue);
      made.out.u8(1);
      const auto encoded = "\3\2XY\xa7\2\1Z"s;  // keep 3, replace 2, keep 295 (two bytes), replace 1
      made.out.be16(static_cast<std::uint16_t>(encoded.size()));
      made.out.text(encoded);
    });
    write_eof(made.out);
    auto facts = made.inspect();
    ASSERT_TRUE(facts) << facts.error().to_string();
    EXPECT_EQ(facts->xbzrle_pages, delta ? 1u : 0u);
    EXPECT_EQ(facts->ram_blocks[0].distinct_pages, 1u);
    hashes[delta] = facts->ram_blocks[0].sha256;
  }
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_EQ(hashes[0].size(), 64u);
}

TEST(InspectorRam, WrongDeltasAreRefused) {
  const std::pair<std::string, const char*> cases[] = {
      {"\1\2X"s, "2 bytes wanted"},
      {"\0\1X\0\1Y"s, "empty run of unchanged"},
      {"\1\0"s, "empty run of changed"},
      {"\xff\x7f\1X"s, "past the end"},
      {"\x80\x80\1"s, "more than two bytes"},
      {"\xff\x1f\2XY"s, "past the end"},
      {"\1"s, "1 bytes wanted"},
  };
  for (const auto& [delta, part] : cases) {
    for (bool hash : {false, true}) {
      MadeStream made;
      made.ram_start(1);
      made.ram_part([&] {
        made.out.be64(ram::kXbzrle);
        made.out.str8("m0");
        made.out.u8(1);
        made.out.be16(static_cast<std::uint16_t>(delta.size()));
        made.out.text(delta);
      });
      write_eof(made.out);
      auto facts = made.inspect({.hash = hash});
      ASSERT_FALSE(facts) << part;
      EXPECT_THAT(facts.error().to_string(), HasSubstr(part));
      EXPECT_THAT(facts.error().to_string(), HasSubstr("RAM word 0x40 at offset"));
    }
  }
}

TEST(InspectorRam, LastPageSentWinsAndTheBlockIsRememberedOverSections) {
  MadeStream made;
  made.ram_start(4);
  made.ram_part([&] {
    made.out.be64(2 * kPageSize | kNamed);
    made.out.str8("m0");
    made.out.text(std::string(kPageSize, 'x'));
  });
  made.ram_part([&] {
    made.out.be64(2 * kPageSize | ram::kZero | ram::kContinue);
    made.out.u8(0);
    made.out.be64(ram::kMultifdFlush);
  });
  write_eof(made.out);
  auto facts = made.inspect();
  ASSERT_TRUE(facts) << facts.error().to_string();
  EXPECT_EQ(facts->ram_blocks[0].distinct_pages, 1u);
  EXPECT_EQ(facts->multifd_flushes, 1u);
  MadeStream untouched;
  untouched.ram_start(4);
  write_eof(untouched.out);
  EXPECT_EQ(facts->ram_blocks[0].sha256, untouched.inspect().value().ram_blocks[0].sha256);
}

TEST(InspectorRam, WrongWordsAreRefusedWithTheirOffset) {
  const std::pair<std::function<void(StreamWriter&)>, const char*> cases[] = {
      {[](StreamWriter& out) { out.be64(ram::kZero | ram::kContinue); }, "none was named before"},
      {[](StreamWriter& out) { out.be64(0x001); }, "flags 0x1"},
      {[](StreamWriter& out) { out.be64(0x100); }, "flags 0x100"},
      {[](StreamWriter& out) { out.be64(0x080); }, "flags 0x80"},
      {[](StreamWriter& out) { out.be64(ram::kZero | ram::kPage); }, "flags 0xa"},
      {[](StreamWriter& out) { out.be64(ram::kEos | ram::kContinue); }, "flags 0x30"},
      {[](StreamWriter& out) { out.be64(kPageSize | ram::kMemSize); }, "flags 0x4"},
      {[](StreamWriter& out) {
         out.be64(ram::kZero);
         out.str8("m1");
       },
       "block 'm1' is not in the list"},
      {[](StreamWriter& out) {
         out.be64(2 * kPageSize | ram::kZero);
         out.str8("m0");
       },
       "outside block 'm0'"},
      {[](StreamWriter& out) {
         out.be64(ram::kZero);
         out.str8("m0");
         out.u8(7);
       },
       "filled with 0x07"},
      {[](StreamWriter& out) {
         out.be64(ram::kXbzrle);
         out.str8("m0");
         out.u8(2);
       },
       "delta encoding 2"},
      {[](StreamWriter& out) {
         out.be64(ram::kXbzrle);
         out.str8("m0");
         out.u8(1);
         out.be16(4097);
       },
       "4097 bytes"},
  };
  for (const auto& [words, part] : cases) {
    MadeStream made;
    made.ram_start(2);
    made.ram_part([&] { words(made.out); });
    const auto message = made.failure();
    EXPECT_THAT(message, HasSubstr(part));
    EXPECT_THAT(message, HasSubstr("PART of section 'ram' (id 1) at offset 66: RAM word")) << part;
    EXPECT_THAT(message, HasSubstr("at offset 71")) << part;
  }
}

std::string list_failure(const Configuration& configuration, const std::function<void(StreamWriter&)>& list) {
  MadeStream made(configuration);
  made.section(Record::section_start, 1, "ram", [&] { list(made.out); }, 4);
  return made.failure();
}

TEST(InspectorRam, WrongBlockListsAreRefused) {
  const Configuration plain{.machine = "none"}, mapped{.machine = "none", .capabilities = {"mapped-ram"}};
  EXPECT_THAT(list_failure(plain, [](auto& out) { out.be64(ram::kEos); }),
              HasSubstr("size of memory should be"));
  auto block = [](StreamWriter& out, std::string_view name, std::uint64_t size) {
    out.str8(name);
    out.be64(size);
  };
  EXPECT_THAT(list_failure(plain,
                           [&](auto& out) {
                             out.be64(8192 | 4);
                             block(out, "m", 12288);
                           }),
              HasSubstr("only 8192 of the total are left"));
  EXPECT_THAT(list_failure(plain,
                           [&](auto& out) {
                             out.be64(8192 | 4);
                             block(out, "m", 4097);
                           }),
              HasSubstr("not whole pages"));
  EXPECT_THAT(list_failure(plain,
                           [&](auto& out) {
                             out.be64(8192 | 4);
                             block(out, "m", 4096);
                             block(out, "m", 4096);
                           }),
              HasSubstr("listed twice"));
  EXPECT_THAT(list_failure(plain, [&](auto& out) { out.be64(~std::uint64_t{4095} | 4); }),
              HasSubstr("more than the 8589934592 that are hashed"));
  auto header = [&](std::uint32_t version, std::uint64_t page, std::uint64_t bitmap, std::uint64_t pages) {
    return list_failure(mapped, [&](auto& out) {
      out.be64(8192 | 4);
      block(out, "m", 8192);
      out.be32(version);
      out.be64(page);
      out.be64(bitmap);
      out.be64(pages);
    });
  };
  EXPECT_THAT(header(2, 4096, 200, 4096), HasSubstr("version 2 of the mapped-ram header"));
  EXPECT_THAT(header(1, 8192, 200, 4096), HasSubstr("pages of 8192 bytes in a stream of 4096"));
  EXPECT_THAT(header(1, 4096, 3, 4096), HasSubstr("do not fit behind the header"));
  EXPECT_THAT(header(1, 4096, 8192, 4096), HasSubstr("do not fit behind the header"));
  EXPECT_THAT(header(1, 4096, 4090, 4096), HasSubstr("do not fit behind the header"));
  EXPECT_THAT(header(1, 4096, 200, 4097), HasSubstr("do not fit behind the header"));
  EXPECT_THAT(header(1, 4096, std::uint64_t{1} << 63, std::uint64_t{1} << 63), HasSubstr("do not fit"));
  EXPECT_THAT(header(1, 4096, 4096, ~std::uint64_t{4095}), HasSubstr("too early"));
}

TEST(InspectorRam, MarkedPagesOutsideTheBlockAreRefused) {
  MadeStream made({.machine = "none", .capabilities = {"mapped-ram"}});
  made.section(
      Record::section_start, 1, "ram",
      [&] {
        made.out.be64(8192 | 4);
        made.out.str8("m");
        made.out.be64(8192);
        made.out.be32(1);
        made.out.be64(4096);
        made.out.be64(made.out.position() + 16);
        made.out.be64(4096);
        made.out.be64(0x0700000000000000);  // pages 0, 1 and 2 of two, little-endian
        made.out.zeros(4096 - made.out.position() + 8192);
        made.out.be64(ram::kEos);
      },
      4);
  EXPECT_THAT(made.failure(), HasSubstr("page 2 of only 2 is marked"));
}

TEST(InspectorRam, HugePageBlocksOfPostcopyCarryTheirPageSize) {
  MadeStream made;
  std::vector<std::byte> sizes(16);
  store_be<std::uint64_t>(sizes.data(), (2 * MiB) | kPageSize);
  store_be<std::uint64_t>(sizes.data() + 8, kPageSize);
  write_command(made.out, Command::postcopy_advise, sizes);
  made.section(
      Record::section_start, 1, "ram",
      [&] {
        made.out.be64((4 * MiB + kPageSize) | ram::kMemSize);
        made.out.str8("huge");
        made.out.be64(4 * MiB);
        made.out.be64(2 * MiB);
        made.out.str8("rom");
        made.out.be64(kPageSize);
        made.out.be64(ram::kEos);
      },
      4);
  write_eof(made.out);
  auto facts = made.inspect();
  ASSERT_TRUE(facts) << facts.error().to_string();
  EXPECT_EQ(facts->ram_blocks[0].host_page_size, 2 * MiB);
  EXPECT_EQ(facts->ram_blocks[1].host_page_size, std::nullopt);
}

TEST(InspectorVfio, UnknownTagsAndWrongOrderAreRefused) {
  const std::pair<std::vector<std::uint64_t>, const char*> cases[] = {
      {{0x1234}, "unknown VFIO tag 0x1234 at offset"},
      {{vfio_tag::kDevSetupState, vfio_tag::kDevDataState}, "where the end of the state should be"},
      {{vfio_tag::kDevDataState, ~std::uint64_t{0}}, "18446744073709551615 bytes of device data at offset"},
  };
  for (const auto& [words, part] : cases) {
    MadeStream made;
    made.section(Record::section_start, 9, "0000:00:01.0/vfio", [&] {
      for (auto word : words)
        made.out.be64(word);
    });
    const auto message = made.failure();
    EXPECT_THAT(message, HasSubstr(part));
    EXPECT_THAT(message, HasSubstr("section '0000:00:01.0/vfio' (id 9)"));
  }
}

TEST(InspectorVfio, ConfigWithoutADescriptionIsMeasuredByItsFooter) {
  MadeStream made;
  made.section(Record::section_full, 9, "vfio", [&] {
    made.out.be64(vfio_tag::kDevConfigState);
    made.out.text(std::string(100, '\xff') +
                  std::string("\x7e\0\0\0\x09", 5));  // a footer inside, but no end tag
    made.out.be64(vfio_tag::kEndOfState);
  });
  write_eof(made.out);
  auto facts = made.inspect();
  ASSERT_TRUE(facts) << facts.error().to_string();
  EXPECT_THAT(facts->vfio[0].records[0].tags, ElementsAre("DEV_CONFIG_STATE[105]", "END_OF_STATE"));
  EXPECT_TRUE(facts->sections[0].guessed);
}

TEST(InspectorRecords, BodiesThatNobodyDescribesAreGuessedAndSaidToBe) {
  MadeStream made;
  made.section(Record::section_full, 4, "strange", [&] { made.out.text("abc~\0\0\0\4~~"s); });
  made.section(Record::section_start, 5, "dirty-bitmap", [&] { made.out.text("whatever"); });
  made.section(Record::section_full, 6, "timer", [&] { made.out.zeros(24); }, 2);
  write_eof(made.out);
  auto facts = made.inspect();
  ASSERT_TRUE(facts) << facts.error().to_string();
  EXPECT_EQ(facts->sections[0].body_size, 10u) << "a footer with no record behind it does not end the body";
  EXPECT_TRUE(facts->sections[0].guessed);
  EXPECT_TRUE(facts->sections[1].guessed);
  EXPECT_FALSE(facts->sections[2].guessed);
}

TEST(InspectorRecords, WrongOrderIsRefused) {
  {
    MadeStream made;
    made.ram_part([] {});
    EXPECT_THAT(made.failure(), HasSubstr("PART of section 1 at offset 17, which nothing introduced"));
  }
  {
    MadeStream made;
    made.ram_start(1);
    made.ram_start(1);
    EXPECT_THAT(made.failure(), HasSubstr("a second list of RAM blocks"));
  }
  {
    MadeStream made;
    made.section(Record::section_start, 1, "ram", [] {}, 3);
    EXPECT_THAT(made.failure(), HasSubstr("version 3 instead of 4"));
  }
  {
    MadeStream made;
    made.section(Record::section_full, 1, "globalstate", [&] { made.out.zeros(104); });
    EXPECT_THAT(made.failure(), HasSubstr("a run state of 1 bytes"));
  }
}

std::vector<std::byte> word(std::uint32_t value) {
  std::vector<std::byte> bytes(4);
  store_be(bytes.data(), value);
  return bytes;
}

TEST(InspectorRecords, PackagesMustHoldWholeRecordsAndNoOtherPackages) {
  const std::pair<std::uint32_t, const char*> lengths[] = {{10, "accepted"}, {9, "runs over its end"}};
  for (const auto& [length, part] : lengths) {
    MadeStream made;
    write_command(made.out, Command::packaged, word(length));
    write_command(made.out, Command::postcopy_listen);
    write_command(made.out, Command::postcopy_run);
    EXPECT_THAT(made.failure(), HasSubstr(part));
  }
  MadeStream nested;
  write_command(nested.out, Command::packaged, word(9));
  write_command(nested.out, Command::packaged, word(0));
  EXPECT_THAT(nested.failure(), HasSubstr("a package inside a package"));
  MadeStream ended;
  write_command(ended.out, Command::packaged, word(5));
  EXPECT_THAT(ended.failure(), HasSubstr("an EOF mark at offset 26, inside a package"));
}

TEST(InspectorRecords, DescriptionsThatCannotBeAreRefused) {
  auto with = [](const std::string& json) {
    MadeStream made;
    made.section(Record::section_full, 6, "timer", [&] { made.out.zeros(24); }, 2);
    write_eof(made.out);
    write_vmdescription(made.out, json);
    auto facts = made.inspect();
    return facts ? "it was accepted" : facts.error().to_string();
  };
  const auto device = R"({"devices": [{"name": "timer", "instance_id": 0, "fields": [)"s;
  EXPECT_EQ(with(device + R"({"size": 8, "array_len": 3, "struct": {"size": [[{}]]}}]}]})"),
            "it was accepted");
  EXPECT_EQ(with(device + R"({"size": 8, "fields": [{"size": 9}], "size": 24}]}]})"), "it was accepted")
      << "lists of QEMU repeat keys in one object; the last size counts";
  EXPECT_EQ(with(device + R"(], "subsections": [{"vmsd_name": "12345678", "fields": [{"size": 10}]}]}]})"),
            "it was accepted");
  EXPECT_THAT(with(device + R"({"size": 9223372036854775808, "array_len": 2}]}]})"),
              HasSubstr("sizes overflow"));
  EXPECT_THAT(with(device + R"({"size": 18446744073709551615}, {"size": 1}]}]})"),
              HasSubstr("sizes overflow"));
  EXPECT_THAT(with(device + R"({"size": 23}]}]})"), HasSubstr("with 23 bytes"));
  EXPECT_THAT(with("[]"), HasSubstr("the vmdescription 0"));
  std::string deep = R"({"devices": [{"name": "timer", "subsections": [)";
  for (int i = 0; i < 100; ++i)
    deep += R"({"subsections": [)";
  EXPECT_THAT(with(deep), HasSubstr("nested too deeply"));
}

}  // namespace
}  // namespace handover::stream
