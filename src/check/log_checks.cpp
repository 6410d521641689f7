// The device's log of its DMA.  What is in it depends on what the device's driver has it do, so mostly the
// rules around it are checked.

#include <algorithm>
#include <bit>
#include <limits>

#include "check/case.h"
#include "check/clauses.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::IovaRange;
using vfio::to_string;

namespace {

Status start(Bench& bench) {
  const IovaRange all[] = {bench.reachable()};
  HANDOVER_TRY_CONTEXT(bench.start_log(kPageSize, all), "starting the log");
  return {};
}

Status stop(Bench& bench) {
  HANDOVER_TRY_CONTEXT(bench.stop_log(), "stopping the log");
  return {};
}

// A report of everything, checked for its length.
Result<Bytes> report(Bench& bench) {
  const auto range = bench.reachable();
  HANDOVER_ASSIGN_CONTEXT(auto bitmap, bench.log().report(range), "asking for a report");
  const auto page = bench.log().page_size();
  if (!std::has_single_bit(page)) return fail(Errc::protocol, "the page size of the log is {}", page);
  const auto pages = (range.size + page - 1) / page;
  if (bitmap.size() < (pages + 7) / 8)
    return fail(Errc::protocol, "a report of {} pages has {} bytes", pages, bitmap.size());
  return bitmap;
}

Status cycle(Bench& bench) {
  HANDOVER_TRY(start(bench));
  HANDOVER_TRY(report(bench));
  return stop(bench);
}

bool is_dirty(const Bytes& bitmap, std::uint64_t page) {
  return std::to_integer<unsigned>(bitmap[page / 8]) >> page % 8 & 1;
}

Result<Finding> can_start_again(Bench& bench) {
  for (int i = 0; i < 3; ++i)
    HANDOVER_TRY(cycle(bench));
  return passed();
}

Result<Finding> page_size(Bench& bench) {
  std::string note;
  for (const auto wish : {kPageSize, 64 * KiB}) {
    const IovaRange all[] = {bench.reachable()};
    HANDOVER_TRY_CONTEXT(bench.start_log(wish, all), "starting the log with pages of {} bytes", wish);
    HANDOVER_TRY(report(bench));
    note += fmt::format("{}{} for {}", note.empty() ? "" : ", ", bench.log().page_size(), wish);
    HANDOVER_TRY(stop(bench));
  }
  return passed(note);
}

Result<Finding> before_start(Bench& bench) {
  HANDOVER_TRY(bench.refused(bench.log().report(bench.reachable()), "a report before the log was started"));
  HANDOVER_TRY(cycle(bench));
  return passed();
}

Result<Finding> after_stop(Bench& bench) {
  HANDOVER_TRY(cycle(bench));
  HANDOVER_TRY(bench.refused(bench.log().report(bench.reachable()), "a report after the log was stopped"));
  return passed();
}

Result<Finding> second_start(Bench& bench) {
  HANDOVER_TRY(start(bench));
  const IovaRange all[] = {bench.reachable()};
  const auto second = bench.start_log(kPageSize, all);
  if (!second) HANDOVER_TRY(bench.is_refusal(second.error()));
  HANDOVER_TRY_CONTEXT(report(bench), "after a second start");
  HANDOVER_TRY(stop(bench));
  HANDOVER_TRY(cycle(bench));
  return passed(second ? "a second start is granted" : "a second start is refused");
}

Result<Finding> clears(Bench& bench) {
  HANDOVER_TRY(start(bench));
  HANDOVER_TRY(bench.enter(DeviceState::stop));
  HANDOVER_TRY(report(bench));
  HANDOVER_ASSIGN(const auto again, report(bench));
  const auto dirty = std::ranges::count_if(again, [](std::byte byte) { return byte != std::byte{0}; });
  if (dirty != 0)
    return fail(Errc::device, "a second report of the stopped device has {} bytes that are not zero", dirty);
  HANDOVER_TRY(bench.enter(DeviceState::running));
  HANDOVER_TRY(stop(bench));
  return passed();
}

Result<Finding> in_every_saving_state(Bench& bench) {
  HANDOVER_TRY(start(bench));
  for (const auto state : {DeviceState::pre_copy, DeviceState::pre_copy_p2p, DeviceState::stop_copy}) {
    if (!bench.has(state)) continue;
    HANDOVER_TRY(bench.enter(state));
    HANDOVER_TRY_CONTEXT(report(bench), "in {}", to_string(state));
  }
  HANDOVER_TRY(stop(bench));
  return passed();
}

// The kernel's core refuses it.  Elsewhere it may be granted, if the log is sound afterwards.
Result<Finding> odd_start(Bench& bench, std::span<const IovaRange> ranges, std::string_view what) {
  const auto started = bench.start_log(kPageSize, ranges);
  if (!started) HANDOVER_TRY(bench.is_refusal(started.error()));
  if (started) {
    HANDOVER_TRY(stop(bench));
    if (bench.options().kernel_log_rules) return fail(Errc::device, "{} was accepted", what);
  }
  HANDOVER_TRY_CONTEXT(cycle(bench), "after {} was {}", what, started ? "granted" : "refused");
  return passed(started ? "granted" : "refused");
}

Result<Finding> report_outside(Bench& bench) {
  const auto all = bench.reachable();
  const IovaRange half[] = {{all.start, all.size / 2}};
  HANDOVER_TRY_CONTEXT(bench.start_log(kPageSize, half), "starting the log");
  // Beyond what is logged, and beyond what is mapped at all.
  for (const IovaRange outside :
       {IovaRange{all.start + all.size / 2, all.size / 2}, IovaRange{all.start + 1024 * GiB, all.size}}) {
    const auto bitmap = bench.log().report(outside);
    if (!bitmap) HANDOVER_TRY(bench.is_refusal(bitmap.error()));
  }
  HANDOVER_TRY_CONTEXT(bench.log().report(half[0]), "a report of what is logged, after one of what is not");
  HANDOVER_TRY(stop(bench));
  return passed();
}

// Whatever the device happens to write while it runs must be reported.
Result<Finding> content(Bench& bench) {
  const auto range = bench.reachable();
  HANDOVER_TRY(start(bench));
  Bytes before(range.size), after(range.size);
  if (!bench.memory().read(Gpa{range.start.value}, before))
    return fail(Errc::io, "the kit's own memory cannot be read");
  HANDOVER_TRY(bench.enter(DeviceState::stop));
  HANDOVER_ASSIGN(const auto bitmap, report(bench));
  if (!bench.memory().read(Gpa{range.start.value}, after))
    return fail(Errc::io, "the kit's own memory cannot be read");
  const auto page = bench.log().page_size();
  std::uint64_t written = 0;
  for (std::uint64_t at = 0; at < range.size; at += page) {
    const auto length = std::min(page, range.size - at);
    const auto begin = static_cast<std::ptrdiff_t>(at);
    if (std::equal(before.begin() + begin, before.begin() + begin + static_cast<std::ptrdiff_t>(length),
                   after.begin() + begin))
      continue;
    ++written;
    if (!is_dirty(bitmap, at / page))
      return fail(Errc::device, "the device wrote the page at {:#x} and did not report it",
                  range.start.value + at);
  }
  HANDOVER_TRY(bench.enter(DeviceState::running));
  HANDOVER_TRY(stop(bench));
  if (written == 0) return not_run("the device wrote nothing meanwhile, and only its own driver can make it");
  return passed(fmt::format("{} pages", written));
}

}  // namespace

void add_log_checks(std::vector<Case>& cases) {
  const auto add = [&](std::string id, std::string what, const char* clause,
                       std::function<Result<Finding>(Bench&)> body) {
    Case made;
    made.about = {"log." + std::move(id), std::move(what), clause};
    made.logs = true;
    made.body = std::move(body);
    cases.push_back(std::move(made));
  };
  const auto add_odd = [&](std::string id, std::string what,
                           std::function<std::vector<IovaRange>(IovaRange)> odd) {
    auto sentence = what + " is refused or does no harm";
    add(std::move(id), std::move(sentence), clause::kLogRanges,
        [odd = std::move(odd), what = std::move(what)](Bench& bench) {
          return odd_start(bench, odd(bench.reachable()), what);
        });
  };

  add("cycle", "the log can be started, reported and stopped, and started again", clause::kLogCycle,
      can_start_again);
  add("page-size", "the page size is a power of two, and reports are as long as it says", clause::kLogPage,
      page_size);
  add("report.before-start", "a report before the start is refused", clause::kLogNotStarted, before_start);
  add("report.after-stop", "a report after the stop is refused", clause::kLogNotStarted, after_stop);
  add("report.outside", "a report of what is not logged is refused or does no harm", clause::kLogOutside,
      report_outside);
  add("report.clears", "a second report of a stopped device is empty", clause::kLogClears, clears);
  add("second-start", "a start while started is refused or does no harm", clause::kLogAgain, second_start);
  add("saving", "reports are given in pre-copy and stop-copy", clause::kLogStates, in_every_saving_state);
  add_odd("start.no-ranges", "a start with no ranges", [](IovaRange) { return std::vector<IovaRange>{}; });
  add_odd("start.misaligned", "a start with a range that is not made of pages",
          [](IovaRange all) { return std::vector{IovaRange{all.start + 512, all.size - 1024}}; });
  add_odd("start.overlapping", "a start with ranges on top of each other",
          [](IovaRange all) { return std::vector{all, IovaRange{all.start, all.size / 2}}; });
  add_odd("start.wrapping", "a start with a range beyond the end of addresses", [](IovaRange) {
    return std::vector{
        IovaRange{Iova{std::numeric_limits<std::uint64_t>::max() - kPageSize + 1}, 2 * kPageSize}};
  });
  add("content", "every page that the device writes until it is stopped is reported", clause::kLogContent,
      content);
}

}  // namespace handover::check
