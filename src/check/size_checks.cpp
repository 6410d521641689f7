// What a device says about the size of its state.

#include <algorithm>

#include "check/case.h"
#include "check/clauses.h"

namespace handover::check {

using vfio::DeviceState;
using vfio::PrecopyInfo;
using vfio::to_string;
using Kind = vfio::StateRead::Kind;

namespace {

constexpr std::uint64_t kPreCopy = vfio::kMigrationStopCopy | vfio::kMigrationPreCopy;
constexpr char kNoInfo[] = "the device gives no pre-copy information";

constexpr bool in_pre_copy(DeviceState state) {
  return state == DeviceState::pre_copy || state == DeviceState::pre_copy_p2p;
}

// An estimate is no promise, so only not answering is a failure.
Result<Finding> estimate(Bench& bench) {
  std::uint64_t said = 0;
  for (const auto state : {DeviceState::running, DeviceState::stop, DeviceState::stop_copy}) {
    HANDOVER_TRY(bench.enter(state));
    HANDOVER_ASSIGN_CONTEXT(const auto size, bench.migration().stop_copy_size(), "asked for the size in {}",
                            to_string(state));
    if (!size) return not_offered("the device makes no estimate");
    said = *size;
  }
  SavedState state;
  HANDOVER_TRY(bench.read_to_end(state));
  const auto came = state.bytes.size();
  auto note = fmt::format("{} bytes estimated, {} came", said, came);
  if (said > 0) note += fmt::format(" ({:.2f} times)", static_cast<double>(came) / static_cast<double>(said));
  return passed(std::move(note));
}

// Fails if there are more initial bytes than before without a word that they are new ones.
Status falls(std::uint64_t before, const PrecopyInfo& now) {
  if (now.initial_bytes <= before || now.reinit) return {};
  return fail(Errc::protocol, "initial_bytes grew from {} to {} by being read", before, now.initial_bytes);
}

Result<Finding> initial_bytes(Bench& bench) {
  HANDOVER_TRY(bench.enter(DeviceState::pre_copy));
  HANDOVER_ASSIGN(auto info, bench.migration().precopy_info());
  if (!info) return not_offered(kNoInfo);
  const auto first = info->initial_bytes;
  if (first == 0) return passed("there are none");
  // A third of them at a time, so that there is something between all and nothing.
  const Cut cut{bench.keeps_chunks() ? 0 : std::clamp<std::size_t>(first / 3, 1, 1 * MiB)};
  std::uint64_t read = 0;
  for (std::uint64_t before = first; read < bench.options().max_state; before = info->initial_bytes) {
    SavedState some;
    HANDOVER_ASSIGN(const auto paused, bench.read_to_pause(some, 1, cut));
    read += some.bytes.size();
    HANDOVER_ASSIGN(info, bench.migration().precopy_info());
    if (!info) return fail(Errc::protocol, "the device stopped giving pre-copy information");
    HANDOVER_TRY(falls(before, *info));
    if (info->initial_bytes == 0) return passed(fmt::format("{} initial bytes, {} read", first, read));
    if (paused)
      return fail(Errc::protocol, "the device has nothing more to read, and {} initial bytes left",
                  info->initial_bytes);
  }
  return fail(Errc::limit, "{} bytes were read and {} initial bytes are left", read, info->initial_bytes);
}

Result<Finding> precopy_info_in(Bench& bench, DeviceState state) {
  // Whether the device gives any can be seen in pre-copy alone.
  HANDOVER_TRY(bench.enter(DeviceState::pre_copy));
  HANDOVER_ASSIGN(const auto offered, bench.migration().precopy_info());
  if (!offered) return not_offered(kNoInfo);
  HANDOVER_TRY(bench.enter(state));
  const auto info = bench.migration().precopy_info();
  if (in_pre_copy(state)) {
    HANDOVER_TRY_CONTEXT(info, "asked for pre-copy information in {}", to_string(state));
    if (!*info)
      return fail(Errc::protocol, "the device gives no pre-copy information in {}", to_string(state));
  } else if (!info || *info) {
    HANDOVER_TRY(bench.refused(info, fmt::format("pre-copy information in {}", to_string(state))));
  }
  HANDOVER_TRY(bench.expect(state));
  if (state == DeviceState::resuming) HANDOVER_TRY(bench.finish_load());
  return passed();
}

}  // namespace

void add_size_checks(std::vector<Case>& cases) {
  Case size;
  size.about = {"size.estimate", "the size of the state is estimated in any state", clause::kSize};
  size.body = estimate;
  cases.push_back(std::move(size));

  Case initial;
  initial.about = {"size.initial", "initial bytes fall as they are read, and reach zero", clause::kInitial};
  initial.features = kPreCopy;
  initial.body = initial_bytes;
  cases.push_back(std::move(initial));

  for (const auto state : all_states()) {
    Case made = case_in(state);
    made.features |= kPreCopy;
    made.about = {fmt::format("info.{}", to_string(state)),
                  fmt::format("pre-copy information is {} in {}", in_pre_copy(state) ? "given" : "refused",
                              to_string(state)),
                  clause::kInfoState, made.loads};
    made.body = [state](Bench& bench) { return precopy_info_in(bench, state); };
    cases.push_back(std::move(made));
  }
}

}  // namespace handover::check
