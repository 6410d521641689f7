#include "handover/check/check.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <stop_token>

#include "cli/commands.h"
#include "cli/device_target.h"
#include "cli/interrupts.h"
#include "cli/size_option.h"
#include "handover/check/report.h"

namespace handover::cli {
namespace {

// What the device may reach while it is checked.
constexpr std::uint64_t kMemory = 8 * MiB;

struct Choices {
  std::string target;
  check::Options options;
  std::string json_file;
  std::string junit_file;
  bool list = false;
  std::uint64_t timeout_s = 30;
};

/// One line on a terminal that says how far it is.
class ProgressLine {
 public:
  ProgressLine() : terminal_(::isatty(STDERR_FILENO) == 1) {}
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const check::Description& next, std::size_t index, std::size_t count) {
    if (!terminal_) return;
    fmt::print(stderr, "\r\x1b[K[{}/{}] {}", index + 1, count, next.id);
    std::fflush(stderr);
    drawn_ = true;
  }
  void clear() {
    if (!std::exchange(drawn_, false)) return;
    fmt::print(stderr, "\r\x1b[K");
    std::fflush(stderr);
  }

 private:
  bool terminal_;
  bool drawn_ = false;
};

Status print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    return fail_errno(errno, "cannot write to standard output");
  return {};
}

Status write_file(const std::string& path, const std::string& text) {
  if (path.empty()) return {};
  if (path == "-") return print(text);
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return fail(Errc::io, "cannot write the report to {}", path);
  return {};
}

/// The first Ctrl-C ends the run and leaves the device in order; before there is a device, and the second
/// time, it breaks off.
class Breaker {
 public:
  explicit Breaker(const Interrupts& interrupts)
      : first_(std::in_place, interrupts.first().stop(), cut()), again_(interrupts.again().stop(), cut()) {}

  CancelToken token() const { return source_.token(); }
  void connected() { first_.reset(); }

 private:
  using Callback = std::stop_callback<std::function<void()>>;
  std::function<void()> cut() {
    return [source = source_]() mutable { source.cancel("interrupted"); };
  }

  CancelSource source_;
  std::optional<Callback> first_;
  Callback again_;
};

Result<bool> run(const Choices& choices) {
  HANDOVER_ASSIGN(const auto target, DeviceTarget::parse(choices.target));
  HANDOVER_ASSIGN(const auto interrupts, Interrupts::watch());
  Breaker breaker(interrupts);
  HANDOVER_ASSIGN(const auto memory, GuestMemory::create(kMemory));
  HANDOVER_ASSIGN(const auto device, open_target(target, *memory, breaker.token(),
                                                 {.timeout = std::chrono::seconds(choices.timeout_s)}));
  breaker.connected();

  ProgressLine line;
  HANDOVER_ASSIGN(const auto report, check::run(*device, *memory, choices.options, interrupts.first(),
                                                [&](const check::Description& next, std::size_t index,
                                                    std::size_t count) { line.show(next, index, count); }));
  line.clear();
  if (choices.json_file != "-" && choices.junit_file != "-") HANDOVER_TRY(print(check::to_table(report)));
  HANDOVER_TRY(write_file(choices.json_file, check::to_json(report)));
  HANDOVER_TRY(write_file(choices.junit_file, check::to_junit(report)));
  return report.green();
}

// What can be known to be wrong before a device is asked.
std::string usage_error(const Choices& choices) {
  if (choices.list) return {};
  if (choices.target.empty()) return "TARGET is required, before --only; `handover check --help` says more";
  if (auto target = DeviceTarget::parse(choices.target); !target) return target.error().to_string();
  if (auto known = check::find_unknown(choices.options.only)) return *known;
  if (choices.json_file == "-" && choices.junit_file == "-")
    return "--json and --junit cannot both go to standard output";
  return {};
}

}  // namespace

void add_check(CLI::App& app, int& exit_code) {
  auto choices = std::make_shared<Choices>();
  CLI::App* command = app.add_subcommand(
      "check",
      "Check that a device migrates as the VFIO and vfio-user rules say.\n"
      "The device must not be in use.  Its state is saved first, and put back if a check changed it.");
  command->add_option("TARGET", choices->target, DeviceTarget::kHelp);
  command->add_flag("--exclusive", choices->options.exclusive,
                    "also what loses the device's state: loading right and wrong states, resets");
  command
      ->add_option("--only", choices->options.only, "checks or groups of them, e.g. `load` or `arc.running`")
      ->type_name("NAME");
  command->add_option("--json", choices->json_file, "write a report for programs; - is standard output")
      ->type_name("FILE");
  command
      ->add_option("--junit", choices->junit_file, "write a report for build servers; - is standard output")
      ->type_name("FILE");
  command->add_flag("--list", choices->list, "list the checks with what they rest on, and run none");
  command->add_option("--timeout", choices->timeout_s, "seconds that one answer of the device may take")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{86400}))
      ->capture_default_str();
  command
      ->add_option("--max-state", choices->options.max_state,
                   "state of more bytes than this counts as endless")
      ->transform(size_in({.least = 1 * MiB, .most = 1024 * GiB, .example = "1G"}))
      ->type_name("SIZE")
      ->default_str("1G");
  command->callback([choices, &exit_code] {
    if (const auto wrong = usage_error(*choices); !wrong.empty()) {
      fmt::print(stderr, "handover check: {}\n", wrong);
      exit_code = 2;
      return;
    }
    if (choices->list) {
      const auto printed = print(check::to_markdown(check::catalogue()));
      if (!printed) fmt::print(stderr, "handover check: {}\n", printed.error().to_string());
      exit_code = printed ? 0 : 1;
      return;
    }
    const auto green = run(*choices);
    if (!green) fmt::print(stderr, "handover check: {}\n", green.error().to_string());
    exit_code = green && *green ? 0 : 1;
  });
}

}  // namespace handover::cli
