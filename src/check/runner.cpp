#include <algorithm>

#include "check/case.h"

namespace handover::check {

using Clock = std::chrono::steady_clock;

namespace {

bool chosen_by(const std::string& id, const std::string& name) {
  return id == name || (id.starts_with(name) && id[name.size()] == '.');
}

bool is_chosen(const Case& each, const std::vector<std::string>& only) {
  return only.empty() ||
         std::ranges::any_of(only, [&](const std::string& name) { return chosen_by(each.about.id, name); });
}

std::vector<Case> choose(const std::vector<std::string>& only) {
  auto cases = all_cases();
  std::erase_if(cases, [&](const Case& each) { return !is_chosen(each, only); });
  return cases;
}

/// Guest memory in the device's sight while it is checked.
class Mapped {
 public:
  Mapped(vfio::Device& device, const GuestMemory& memory) : device_(device) {
    for (const auto& range : memory.ranges()) {
      result_ = device.dma_map({.iova = {range.start.value},
                                .size = range.size,
                                .fd = range.block->fd(),
                                .offset = range.offset,
                                .host = range.block->data() + range.offset});
      if (!result_) return;
      mapped_.push_back({{range.start.value}, range.size});
    }
  }
  ~Mapped() {
    for (const auto& range : mapped_)
      if (!device_.lost()) (void)device_.dma_unmap(range);  // the memory goes with the connection anyway
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;

  const Status& result() const { return result_; }

 private:
  vfio::Device& device_;
  Status result_;
  std::vector<vfio::IovaRange> mapped_;
};

/// One run of the chosen checks.
class Runner {
 public:
  Runner(vfio::Device& device, GuestMemory& memory, const Options& options, const CancelToken& cancel)
      : bench_(device, memory, options, cancel), mapped_(device, memory) {}

  Report go(const std::vector<Case>& cases, const Progress& progress);

 private:
  /// Why the check cannot be made with this device or now.
  std::optional<Finding> excuse(const Case& each);
  Finding make(const Case& each);
  void look_for_an_end(const Case& each);
  std::string restore();

  Bench bench_;
  Mapped mapped_;
  std::optional<std::string> ended_;
};

std::optional<Finding> Runner::excuse(const Case& each) {
  if (ended_) return not_run(*ended_);
  if ((bench_.features() & each.features) != each.features)
    return not_offered(fmt::format("the device's migration features are {:#x}", bench_.features()));
  if (each.logs && !bench_.device().dma_log()) return not_offered("the device keeps no log of its DMA");
  if (each.cuts && bench_.keeps_chunks())
    return not_offered("the protocol keeps the pieces of the state as they are");
  if (each.resets && !(bench_.device().info().flags & vfio::kDeviceFlagReset))
    return not_offered("the device has no reset, which is the only way back from this");
  if (each.about.exclusive && !bench_.options().exclusive)
    return not_run("needs --exclusive: the device would lose its state");
  if (each.loads && !bench_.saved())
    return not_run("no state could be saved before: " + bench_.saved().error().to_string());
  if (each.logs && !mapped_.result())
    return not_run("no memory could be mapped for the device: " + mapped_.result().error().to_string());
  return std::nullopt;
}

Finding Runner::make(const Case& each) {
  if (auto settled = bench_.settle(); !settled) {
    const auto why = "the device could not be brought back to running before: " + settled.error().to_string();
    // Whoever goes away between two checks has not passed either.
    return bench_.lost() ? Finding{Verdict::failed, why} : not_run(why);
  }
  auto found = each.body(bench_);
  if (!found && found.error().code() == Errc::cancelled && bench_.cancel().cancelled())
    return not_run("interrupted");
  // A v1 driver need not know every way that v2 has.
  if (!found && found.error().code() == Errc::unsupported && bench_.keeps_chunks())
    return not_offered(found.error().to_string());
  auto finding = found ? std::move(*found) : Finding{Verdict::failed, found.error().to_string()};
  if (finding.verdict == Verdict::failed || bench_.lost()) return finding;
  // Whoever leaves a device behind that cannot be used has not passed.
  if (auto settled = bench_.settle(); !settled)
    return {Verdict::failed,
            "afterwards the device could not be brought back to running: " + settled.error().to_string()};
  return finding;
}

void Runner::look_for_an_end(const Case& each) {
  if (ended_) return;
  if (bench_.lost())
    ended_ = fmt::format("the device was lost in {}: {}", each.about.id, bench_.loss());
  else if (bench_.cancel().cancelled())
    ended_ = fmt::format("interrupted in {}", each.about.id);
}

// Also after an interruption: the device is still ours to put right.
std::string Runner::restore() {
  if (bench_.lost()) return "unknown: the device was lost";
  if (auto settled = bench_.settle(); !settled)
    return "unknown: the device could not be brought back to running: " + settled.error().to_string();
  if (!bench_.touched()) return "kept: nothing has changed it";
  if (!bench_.saved()) return "lost: it could not be saved before: " + bench_.saved().error().to_string();
  Bench last(bench_.device(), bench_.memory(), bench_.options(), {});
  if (auto loaded = last.load(bench_.sample()); !loaded) {
    auto text = "lost: what was saved before could not be loaded: " + loaded.error().to_string();
    if (auto settled = last.settle(); !settled) text += "; and now " + settled.error().to_string();
    return text;
  }
  return fmt::format("restored from what was saved before ({} bytes)", bench_.sample().bytes.size());
}

Report Runner::go(const std::vector<Case>& cases, const Progress& progress) {
  const auto start = Clock::now();
  auto& device = bench_.device();
  Report report;
  report.device = device.id();
  report.features = bench_.features();
  report.dma_log = device.dma_log() != nullptr;
  report.resettable = device.info().flags & vfio::kDeviceFlagReset;
  report.exclusive = bench_.options().exclusive;

  if (auto settled = bench_.settle(); settled)
    bench_.keep_sample(bench_.save());
  else
    bench_.keep_sample(std::unexpected(std::move(settled).error()));
  if (bench_.lost()) ended_ = "the device was lost when it was saved first: " + bench_.loss();
  if (bench_.cancel().cancelled()) ended_ = "interrupted";

  for (std::size_t index = 0; index < cases.size(); ++index) {
    const auto& each = cases[index];
    if (progress && !ended_) progress(each.about, index, cases.size());
    const auto begin = Clock::now();
    auto excused = excuse(each);
    const bool asked = !excused;
    auto finding = asked ? make(each) : std::move(*excused);
    report.entries.push_back(
        {each.about, std::move(finding), asked ? Clock::now() - begin : Clock::duration(0)});
    if (asked) look_for_an_end(each);
  }
  report.state = restore();
  report.ended_early = ended_;
  report.took = Clock::now() - start;
  return report;
}

}  // namespace

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::passed:
      return "passed";
    case Verdict::warned:
      return "passed with a warning";
    case Verdict::failed:
      return "failed";
    case Verdict::not_offered:
      return "not offered";
    case Verdict::not_run:
      return "not run";
  }
  return "unknown";
}

std::size_t Report::count(Verdict verdict) const {
  return static_cast<std::size_t>(
      std::ranges::count(entries, verdict, [](const Entry& entry) { return entry.finding.verdict; }));
}

bool Report::green() const {
  return count(Verdict::failed) == 0 && !ended_early;
}

std::optional<std::string> find_unknown(const std::vector<std::string>& only) {
  const auto all = catalogue();
  for (const auto& name : only)
    if (std::ranges::none_of(all, [&](const Description& each) { return chosen_by(each.id, name); }))
      return fmt::format("there is no check `{}`; `handover check --list` names them all", name);
  return std::nullopt;
}

Result<Report> run(vfio::Device& device, GuestMemory& memory, const Options& options,
                   const CancelToken& cancel, const Progress& progress) {
  if (auto unknown = find_unknown(options.only)) return fail(Errc::invalid_argument, "{}", *unknown);
  if (!device.migration())
    return fail(Errc::unsupported, "device `{}` cannot migrate: {}", device.id(), device.migration_blocker());
  return Runner(device, memory, options, cancel).go(choose(options.only), progress);
}

}  // namespace handover::check
