#pragma once

#include <string>
#include <vector>

#include "handover/check/check.h"

/// Reports as text.  What a device said ends in them, so nothing in it is taken for markup.
namespace handover::check {

/// For people: a row for each group, a line for whatever did not simply pass, and a summary.
std::string to_table(const Report& report);
/// "134 checks: 120 passed, 2 failed, ..." without an end of line.
std::string summary(const Report& report);
/// For programs: everything that is known, one object.
std::string to_json(const Report& report);
/// For build servers: JUnit XML, one test suite a group.
std::string to_junit(const Report& report);
/// The catalogue as tables in Markdown, one a group.
std::string to_markdown(const std::vector<Description>& checks);

}  // namespace handover::check
