#include "handover/stream/vmstate.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "support/memory_channel.h"

namespace handover::vmstate {
namespace {

using test::MemoryChannel;
using test::to_bytes;
using testing::HasSubstr;
using namespace std::string_literals;

struct Thing {
  std::uint16_t old = 0;
  std::uint32_t word = 0;
  std::uint32_t lanes = 4;
  bool on = false;
  std::int16_t low = 0;
  std::uint32_t size = 0;
  std::vector<std::byte> data{};
  std::string state{};
  std::uint64_t extra = 0;
};

template <class T>
std::string saved(const Description& description, const T& object) {
  MemoryChannel channel;
  StreamWriter out(channel);
  description.save(&object, out);
  EXPECT_TRUE(out.flush());
  return {reinterpret_cast<const char*>(channel.output.data()), channel.output.size()};
}

template <class T>
Status load(const Description& description, T& object, const std::string& bytes, std::uint32_t version = 1) {
  MemoryChannel channel(to_bytes(bytes));
  StreamReader in(channel);
  auto status = description.load(&object, in, version);
  if (status && !in.at_end().value()) ADD_FAILURE() << "bytes were left";
  return status;
}

template <class T>
std::string failure(const Description& description, T& object, const std::string& bytes,
                    std::uint32_t version = 1) {
  auto status = load(description, object, bytes, version);
  return status ? "it was accepted" : status.error().to_string();
}

TEST(Vmstate, EncodingsAreBigEndianWithoutTags) {
  const auto description = Describe<Thing>("thing", 1)
                               .field("word", &Thing::word)
                               .unused(2)
                               .field("on", &Thing::on)
                               .field("low", &Thing::low)
                               .fixed_text("state", &Thing::state, 4)
                               .done();
  const Thing thing{.word = 0x01020304, .on = true, .low = -2, .state = "run"};
  EXPECT_EQ(saved(*description, thing), "\1\2\3\4\0\0\1\xff\xferun\0"s);
  Thing got;
  ASSERT_TRUE(load(*description, got, "\1\2\3\4zz\1\xff\xfe\x72un\0"s)) << "what is unused may be anything";
  EXPECT_EQ(got.word, 0x01020304u);
  EXPECT_TRUE(got.on);
  EXPECT_EQ(got.low, -2);
  EXPECT_EQ(got.state, "run");
}

TEST(Vmstate, FieldsComeAndGoWithVersions) {
  const auto description = Describe<Thing>("thing", 3, 1)
                               .field("old", &Thing::old, {.until = 1})
                               .field("word", &Thing::word)
                               .field("on", &Thing::on, {.since = 2})
                               .done();
  Thing thing{.old = 5, .word = 1, .on = true};
  EXPECT_EQ(saved(*description, thing), "\0\0\0\1\1"s);
  Thing got;
  ASSERT_TRUE(load(*description, got, "\0\7\0\0\0\2"s, 1));
  EXPECT_EQ(got.old, 7);
  EXPECT_EQ(got.word, 2u);
  EXPECT_FALSE(got.on);
  ASSERT_TRUE(load(*description, got, "\0\0\0\3\1"s, 2));
  EXPECT_TRUE(got.on);
}

TEST(Vmstate, VersionsOutsideTheKnownRangeAreRefused) {
  const auto description = Describe<Thing>("thing", 3, 2).field("word", &Thing::word).done();
  Thing thing;
  EXPECT_THAT(failure(*description, thing, "\0\0\0\1"s, 4), HasSubstr("thing has version 4"));
  EXPECT_THAT(failure(*description, thing, "\0\0\0\1"s, 1), HasSubstr("needs version 2"));
}

TEST(Vmstate, EqualFieldsMustBeEqual) {
  const auto description =
      Describe<Thing>("thing", 1).equal("lanes", &Thing::lanes).equal("extra", &Thing::extra).done();
  Thing thing{.extra = 9};
  EXPECT_TRUE(load(*description, thing, "\0\0\0\4\0\0\0\0\0\0\0\x09"s));
  EXPECT_EQ(failure(*description, thing, "\0\0\0\5\0\0\0\0\0\0\0\x09"s),
            "thing, field 'lanes': the stream has 5, this side has 4");
  EXPECT_EQ(thing.lanes, 4u);
  const auto json = description->describe(&thing);
  EXPECT_EQ(json["fields"][0]["type"], "uint32 equal");
  EXPECT_EQ(json["fields"][1]["type"], "int64 equal");
}

TEST(Vmstate, ForeignValuesAreCheckedBeforeUse) {
  const auto flag = Describe<Thing>("thing", 1).field("on", &Thing::on).done();
  const auto text = Describe<Thing>("thing", 1).fixed_text("state", &Thing::state, 3).done();
  const auto sized = Describe<Thing>("thing", 1)
                         .field("size", &Thing::size)
                         .sized_buffer("data", &Thing::data, &Thing::size, 16)
                         .done();
  Thing thing;
  EXPECT_EQ(failure(*flag, thing, "\2"s), "thing, field 'on': 2 is not a truth value (0 or 1)");
  EXPECT_THAT(failure(*text, thing, "abc"s), HasSubstr("field 'state': a text of 3 bytes without its NUL"));
  EXPECT_EQ(failure(*sized, thing, "\xff\xff\xff\xff"s),
            "thing, field 'data': count 4294967295 is outside 0..16");
  EXPECT_THAT(failure(*sized, thing, "\0\0\0\4xyz"s), HasSubstr("field 'data': memory ends at offset 7"));
  EXPECT_TRUE(load(*sized, thing, "\0\0\0\3xyz"s));
  EXPECT_EQ(thing.data, to_bytes("xyz"));
}

TEST(Vmstate, PostLoadMayRefuseAndItsSubsectionsAreThere) {
  const auto extra = Describe<Thing>("thing/extra", 1).field("extra", &Thing::extra).done();
  const auto description = Describe<Thing>("thing", 1)
                               .field("word", &Thing::word)
                               .subsection(extra, [](const Thing& t) { return t.extra != 0; })
                               .post_load([](Thing& t, std::uint32_t) -> Status {
                                 if (t.extra != t.word)
                                   return fail(Errc::mismatch, "{} is not {}", t.extra, t.word);
                                 return {};
                               })
                               .done();
  Thing thing;
  const auto bytes = saved(*description, Thing{.word = 2, .extra = 2});
  EXPECT_EQ(bytes, "\0\0\0\2\5\x0bthing/extra\0\0\0\1\0\0\0\0\0\0\0\2"s);
  EXPECT_TRUE(load(*description, thing, bytes));
  EXPECT_EQ(failure(*description, thing, saved(*description, Thing{.word = 1, .extra = 2})),
            "thing: 2 is not 1");
}

std::shared_ptr<const Description> with_extra() {
  const auto extra = Describe<Thing>("outer/extra", 2).field("extra", &Thing::extra).done();
  return Describe<Thing>("outer", 1)
      .field("word", &Thing::word)
      .subsection(extra, [](const Thing& t) { return t.extra != 0; })
      .done();
}

struct Outer {
  Thing thing;
  std::uint8_t last = 0;
};

TEST(Vmstate, SubsectionOfTheOwnerIsNotTakenByWhatIsNested) {
  const auto inner = Describe<Thing>("inner", 1)
                         .field("word", &Thing::word)
                         .subsection(Describe<Thing>("inner/more", 1).field("on", &Thing::on).done(),
                                     [](const Thing& t) { return t.on; })
                         .done();
  const auto outer = Describe<Outer>("outer", 1)
                         .structure("thing", &Outer::thing, inner)
                         .subsection(Describe<Outer>("outer/last", 1).field("last", &Outer::last).done(),
                                     [](const Outer& o) { return o.last != 0; })
                         .done();
  for (bool on : {false, true}) {
    for (std::uint8_t last : {0, 9}) {
      Outer object;
      object.thing.on = on;
      object.last = last;
      Outer got;
      auto status = load(*outer, got, saved(*outer, object));
      ASSERT_TRUE(status) << status.error().to_string();
      EXPECT_EQ(got.thing.on, on);
      EXPECT_EQ(got.last, last);
    }
  }
}

TEST(Vmstate, UnknownRepeatedAndTooNewSubsectionsAreRefused) {
  const auto description = with_extra();
  Thing thing;
  const auto word = "\0\0\0\1"s;
  const auto extra = "\5\x0bouter/extra\0\0\0\2\0\0\0\0\0\0\0\1"s;
  EXPECT_TRUE(load(*description, thing, word + extra));
  EXPECT_EQ(failure(*description, thing, word + "\5\x09outer/new\0\0\0\1"s),
            "outer: unknown subsection 'outer/new' at offset 4");
  EXPECT_THAT(failure(*description, thing, word + extra + extra), HasSubstr("comes twice, at offset"));
  EXPECT_THAT(failure(*description, thing, word + "\5\x0bouter/extra\0\0\0\3"s),
              HasSubstr("outer/extra has version 3"));
}

TEST(Vmstate, JsonIsThatOfQemu) {
  struct Pair {
    std::uint8_t a = 0;
    std::uint16_t b = 0;
  };
  struct All {
    std::uint32_t one = 0;
    std::array<std::uint16_t, 3> three{};
    std::array<Pair, 2> pairs{};
    std::uint8_t count = 2;
    std::vector<Pair> many = std::vector<Pair>(2);
    std::uint64_t extra = 1;
  };
  const auto pair = Describe<Pair>("pair", 1).field("a", &Pair::a).field("b", &Pair::b).done();
  const auto extra = Describe<All>("all/extra", 4).field("extra", &All::extra).done();
  const auto description = Describe<All>("all", 2)
                               .field("one", &All::one)
                               .unused(3)
                               .field("three", &All::three)
                               .unused(5)
                               .structure("pairs", &All::pairs, pair)
                               .field("count", &All::count)
                               .sized_array("many", &All::many, &All::count, 8, pair)
                               .subsection(extra, [](const All& all) { return all.extra != 0; })
                               .done();
  const All all;
  const auto pair_json =
      R"({"vmsd_name":"pair","version":1,"fields":[{"name":"a","type":"uint8","size":1},{"name":"b","type":"uint16","size":2}]})"s;
  EXPECT_EQ(description->describe(&all).dump(),
            R"({"vmsd_name":"all","version":2,"fields":[{"name":"one","type":"uint32","size":4},)"
            R"({"name":"unused[0]","type":"unused_buffer","size":3},)"
            R"({"name":"three","array_len":3,"type":"uint16","size":2},)"
            R"({"name":"unused[1]","type":"unused_buffer","size":5},)"
            R"({"name":"pairs","array_len":2,"type":"struct","struct":)" +
                pair_json +
                R"(,"size":3},{"name":"count","type":"uint8","size":1},)"
                R"({"name":"many","array_len":2,"type":"struct","struct":)" +
                pair_json +
                R"(,"size":3}],"subsections":[{"vmsd_name":"all/extra","version":4,)"
                R"("fields":[{"name":"extra","type":"uint64","size":8}]}]})");
}

TEST(VmstateDeathTest, MisuseEndsTheProgramInWords) {
  const auto sized = Describe<Thing>("thing", 1)
                         .field("size", &Thing::size)
                         .sized_buffer("data", &Thing::data, &Thing::size, 16)
                         .done();
  EXPECT_DEATH(saved(*sized, Thing{.size = 3}), "'data'.*size field");
  const auto text = Describe<Thing>("thing", 1).fixed_text("state", &Thing::state, 3).done();
  EXPECT_DEATH(saved(*text, Thing{.state = "long"}), "'state'.*does not fit");
  const auto other = Describe<Thing>("other/sub", 1).done();
  EXPECT_DEATH((void)Describe<Thing>("thing", 1).subsection(other, [](const Thing&) { return true; }),
               "owner");
}

}  // namespace
}  // namespace handover::vmstate
