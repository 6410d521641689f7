// Devices whose DMA log is wrong.

#include <cerrno>

#include "unit/check/defects.h"

namespace handover::check {
namespace {

using Install = std::function<void(CheckedDevice&)>;
using Ranges = std::span<const vfio::IovaRange>;

std::unexpected<Error> refusal() {
  return std::unexpected(Error(Errc::device, "refused by a defect", EINVAL));
}

Bytes bitmap(const vfio::IovaRange& range, std::byte fill) {
  return Bytes((range.size / kPageSize + 7) / 8, fill);
}

void starts_twice_in_all(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.log_start = [&device, starts = 0](std::uint64_t page, Ranges ranges) mutable -> Status {
    if (++starts > 2) return refusal();
    return device.log().start(page, ranges);
  };
}

void takes_odd_page_sizes(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto odd = std::make_shared<bool>(false);
  device.hooks.log_start = [&device, odd](std::uint64_t page, Ranges ranges) -> Status {
    *odd = page != kPageSize;
    return device.log().start(page, ranges);
  };
  device.hooks.log_page_size = [&device, odd] { return *odd ? 3000 : device.log().page_size(); };
}

void reports_too_little(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.log_report = [&device](const vfio::IovaRange& range) -> Result<Bytes> {
    auto got = device.log().report(range);
    if (got) got->resize(got->size() / 2);
    return got;
  };
}

void reports_while_off(CheckedDevice& checked) {
  auto& device = *checked.device;
  auto on = std::make_shared<bool>(false);
  device.hooks.log_start = [&device, on](std::uint64_t page, Ranges ranges) -> Status {
    *on = true;
    return device.log().start(page, ranges);
  };
  device.hooks.log_stop = [&device, on]() -> Status {
    *on = false;
    return device.log().stop();
  };
  device.hooks.log_report = [&device, on](const vfio::IovaRange& range) -> Result<Bytes> {
    if (!*on) return bitmap(range, {});
    return device.log().report(range);
  };
}

void breaks_by_a_report_outside(CheckedDevice& checked) {
  auto& device = *checked.device;
  const auto size = checked.memory->size();
  device.hooks.log_report = [&device, size,
                             broken = false](const vfio::IovaRange& range) mutable -> Result<Bytes> {
    if (std::exchange(broken, range.start.value > size)) return refusal();
    return device.log().report(range);
  };
}

void reports_everything_always(CheckedDevice& checked) {
  checked.device->hooks.log_report = [&device =
                                          *checked.device](const vfio::IovaRange& range) -> Result<Bytes> {
    HANDOVER_TRY(device.log().report(range));
    return bitmap(range, std::byte{0xff});
  };
}

void is_off_after_a_second_start(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.log_start = [&device](std::uint64_t page, Ranges ranges) -> Status {
    if (!device.log().report({Iova{0}, kPageSize})) return device.log().start(page, ranges);
    HANDOVER_TRY(device.log().stop());
    return {};
  };
}

void reports_nothing_in_stop_copy(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.log_report = [&device](const vfio::IovaRange& range) -> Result<Bytes> {
    if (device.now() == DeviceState::stop_copy) return refusal();
    return device.log().report(range);
  };
}

std::string kind_of(Ranges ranges) {
  if (ranges.empty()) return "no-ranges";
  if (ranges.size() > 1) return "overlapping";
  if (ranges[0].start.value + ranges[0].size < ranges[0].start.value) return "wrapping";
  return ranges[0].start.value % kPageSize != 0 ? "misaligned" : "whole";
}

// A start with such ranges is taken or not; either way the next start fails.
Install breaks_by(std::string kind) {
  return [kind = std::move(kind)](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.log_start = [&device, kind, broken = false](std::uint64_t page,
                                                             Ranges ranges) mutable -> Status {
      if (std::exchange(broken, kind_of(ranges) == kind)) return refusal();
      return device.log().start(page, ranges);
    };
  };
}

// As no kernel does.
Install takes(std::string kind) {
  return [kind = std::move(kind)](CheckedDevice& checked) {
    auto& device = *checked.device;
    device.hooks.log_start = [&device, kind](std::uint64_t page, Ranges ranges) -> Status {
      const auto given = kind_of(ranges);
      if (given == kind) return device.log().start(page, {});
      if (given != "whole") return refusal();
      return device.log().start(page, ranges);
    };
  };
}

void writes_and_does_not_tell(CheckedDevice& checked) {
  auto& device = *checked.device;
  device.hooks.set_state = [&device, &checked](DeviceState to) -> Status {
    // As a device would, which does not go through this process.
    if (to == DeviceState::stop) checked.memory->at(Gpa{5 * kPageSize}, 1)[0] ^= std::byte{1};
    return device.protocol().set_state(to);
  };
}

}  // namespace

std::vector<Defect> defects_of_logs() {
  std::vector<Defect> all;
  const auto add = [&](const std::string& id, std::string what, Install install) -> Defect& {
    all.push_back({.id = "log." + id, .what = std::move(what), .install = std::move(install)});
    return all.back();
  };
  add("cycle", "can be started a limited number of times", starts_twice_in_all).broad = true;
  add("cycle", "reports less than was asked for", reports_too_little).broad = true;
  add("page-size", "has pages of no power of two", takes_odd_page_sizes);
  add("report.before-start", "reports while it is off", reports_while_off).also = {"log.report.after-stop"};
  add("report.after-stop", "reports while it is off", reports_while_off).also = {"log.report.before-start"};
  add("report.outside", "is broken by it", breaks_by_a_report_outside);
  add("report.clears", "reports everything always", reports_everything_always);
  add("second-start", "is off after it", is_off_after_a_second_start);
  add("saving", "gives no report in stop-copy", reports_nothing_in_stop_copy);
  for (const char* kind : {"no-ranges", "misaligned", "overlapping", "wrapping"}) {
    add(fmt::format("start.{}", kind), "is broken by it", breaks_by(kind));
    add(fmt::format("start.{}", kind), "takes it, in a kernel", takes(kind)).kernel_log_rules = true;
  }
  add("content", "writes what it does not report", writes_and_does_not_tell);
  return all;
}

}  // namespace handover::check
