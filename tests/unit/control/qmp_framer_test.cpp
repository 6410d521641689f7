#include "control/qmp_framer.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace handover::control {
namespace {

std::vector<std::string> all_of(QmpFramer& framer) {
  std::vector<std::string> texts;
  while (auto text = framer.next())
    texts.push_back(*text ? **text : "ERROR");
  return texts;
}

using Texts = std::vector<std::string>;

TEST(QmpFramer, TextEndsWithItsOutermostBracketOrItsLine) {
  QmpFramer framer(100);
  framer.append("{\"a\": [1, {}]}{}\n[2]\n  \r\nhello\n7\n");
  EXPECT_EQ(all_of(framer), (Texts{"{\"a\": [1, {}]}", "{}", "[2]", "hello\n", "7\n"}));
}

TEST(QmpFramer, BracketsAndQuotesInsideStringsDoNotCount) {
  QmpFramer framer(100);
  framer.append(R"({"a": "}\"}\\"}{"b": "["})");
  EXPECT_EQ(all_of(framer), (Texts{R"({"a": "}\"}\\"})", R"({"b": "["})"}));
}

TEST(QmpFramer, CutsTheSameWhereverTheReadsEnd) {
  const std::string input = "{\"execute\": \"a\", \"id\": \"}\\\"\"}{}\r\nxx}{\n{\"b\":[[]]}\n";
  QmpFramer whole(100);
  whole.append(input);
  const auto expected = all_of(whole);
  ASSERT_EQ(expected.size(), 4u);
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    QmpFramer framer(100);
    Texts texts;
    for (std::size_t at = 0; at < input.size();) {
      const auto count = std::min<std::size_t>(1 + random() % 7, input.size() - at);
      framer.append(std::string_view(input).substr(at, count));
      at += count;
      for (auto& text : all_of(framer))
        texts.push_back(text);
    }
    ASSERT_EQ(texts, expected);
  }
}

TEST(QmpFramer, AfterAFaultyLineTheNextStartsAfresh) {
  QmpFramer framer(100);
  framer.append("{\"open\": \"no end\n{}\n{{{{\n[]\n");
  EXPECT_EQ(all_of(framer), (Texts{"{\"open\": \"no end\n", "{}", "{{{{\n", "[]"}));
}

TEST(QmpFramer, TooLongIsReportedOnceAndSkippedToTheLineEnd) {
  QmpFramer framer(10);
  framer.append(std::string(4, '['));
  EXPECT_FALSE(framer.next());
  framer.append(std::string(7, '['));
  auto text = framer.next();
  ASSERT_TRUE(text);
  ASSERT_FALSE(*text);
  EXPECT_EQ(text->error().code(), Errc::limit);
  framer.append(std::string(1000, '{'));
  EXPECT_FALSE(framer.next());
  framer.append("{}\n{}");
  EXPECT_EQ(all_of(framer), (Texts{"{}"}));
}

TEST(QmpFramer, TheLongestTextIsStillTaken) {
  QmpFramer framer(10);
  framer.append("[ 4 6 8 0]");
  EXPECT_EQ(all_of(framer), (Texts{"[ 4 6 8 0]"}));
  framer.append("[ 4 6 8 01]\n[]");
  EXPECT_EQ(all_of(framer), (Texts{"ERROR", "[]"}));
}

}  // namespace
}  // namespace handover::control
