#include "handover/base/result.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>

namespace handover {
namespace {

Result<int> half(int number) {
  if (number % 2 != 0) return fail(Errc::invalid_argument, "{} is odd", number);
  return number / 2;
}

Result<int> quarter(int number) {
  HANDOVER_ASSIGN(auto once, half(number));
  HANDOVER_ASSIGN_CONTEXT(auto twice, half(once), "cannot halve {} twice", number);
  return twice;
}

Status check_even(int number) {
  HANDOVER_TRY(half(number));
  return {};
}

TEST(Result, AssignTakesTheValueOrReturnsTheError) {
  EXPECT_EQ(quarter(8).value(), 2);
  auto odd = quarter(3);
  ASSERT_FALSE(odd);
  EXPECT_EQ(odd.error().code(), Errc::invalid_argument);
  EXPECT_EQ(odd.error().to_string(), "3 is odd");
}

TEST(Result, ContextComesBeforeTheCause) {
  auto odd = quarter(6);
  ASSERT_FALSE(odd);
  EXPECT_EQ(odd.error().to_string(), "cannot halve 6 twice: 3 is odd");
  auto error = std::move(odd).error().with_context("outermost");
  EXPECT_EQ(error.to_string(), "outermost: cannot halve 6 twice: 3 is odd");
  EXPECT_EQ(error.code(), Errc::invalid_argument);
}

TEST(Result, TryReturnsOnlyOnFailure) {
  EXPECT_TRUE(check_even(2));
  EXPECT_FALSE(check_even(1));
}

TEST(Result, TryEvaluatesItsExpressionOnce) {
  int calls = 0;
  auto count = [&]() -> Status {
    ++calls;
    return fail(Errc::state, "no");
  };
  auto caller = [&]() -> Status {
    HANDOVER_TRY_CONTEXT(count(), "call {}", calls);
    return {};
  };
  EXPECT_EQ(caller().error().to_string(), "call 1: no");
  EXPECT_EQ(calls, 1);
}

TEST(Result, AssignMovesWhatCannotBeCopied) {
  auto make = []() -> Result<std::unique_ptr<int>> { return std::make_unique<int>(7); };
  auto caller = [&]() -> Result<int> {
    HANDOVER_ASSIGN(auto pointer, make());
    return *pointer;
  };
  EXPECT_EQ(caller().value(), 7);
}

TEST(Result, FailedSystemCallKeepsItsErrno) {
  Status status = fail_errno(ENOENT, "cannot open {}", "x");
  EXPECT_EQ(status.error().code(), Errc::io);
  EXPECT_EQ(status.error().sys_errno(), ENOENT);
  EXPECT_EQ(status.error().to_string(), "cannot open x: No such file or directory");
  EXPECT_EQ(fail(Errc::limit, "big").error().sys_errno(), 0);
}

}  // namespace
}  // namespace handover
