#include "cli/demo_stage.h"

#include <cerrno>
#include <chrono>
#include <cstdlib>

#include "handover/base/units.h"

namespace handover::cli {

using nlohmann::json;

namespace {

/// Generous: a slow machine that zeroes a lot of memory is not a failure.
Deadline start_deadline() {
  return std::chrono::steady_clock::now() + std::chrono::seconds(60);
}

/// Nearly all of the RAM, so that the verification sees it: what is left is for the guest's own tables.
std::uint64_t working_set(const DemoOptions& options) {
  const std::uint64_t tables = options.memory / 256 + options.devices * 4 * MiB + MiB;
  return options.memory > 2 * tables ? (options.memory - tables) / kPageSize * kPageSize : 0;
}

std::uint64_t number(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number_unsigned() ? at->get<std::uint64_t>() : 0;
}

}  // namespace

Result<DemoSide> DemoSide::start(const std::string& name, const std::filesystem::path& folder,
                                 const DemoOptions& options, bool incoming, const CancelToken& cancel) {
  DemoSide side;
  std::vector<std::string> run{options.program, "run", "--exit-with-parent", "--memory",
                               fmt::format("{}", options.memory)};
  for (std::uint32_t i = 0; i < options.devices; ++i) {
    const auto id = fmt::format("accel{}", i);
    const auto socket = (folder / fmt::format("{}-{}.sock", name, id)).string();
    std::vector<std::string> serve{
        options.program, "serve", "accelerator", "--exit-with-parent",
        "--socket",      socket,  "--memory",    fmt::format("{}", options.device_memory)};
    if (!options.load_cost.empty()) serve.insert(serve.end(), {"--load-cost", options.load_cost});
    HANDOVER_ASSIGN(
        auto server,
        ChildProcess::start(serve, {.name = fmt::format("the {} device server {}", name, id),
                                    .stderr_path = (folder / fmt::format("{}-{}.log", name, id)).string()}));
    HANDOVER_TRY(server.read_line(cancel, start_deadline()));
    side.devices_.push_back(std::move(server));
    run.insert(run.end(), {"--device", fmt::format("vfio-user,socket={},id={}", socket, id)});
  }
  const auto control = (folder / fmt::format("{}.qmp", name)).string();
  run.insert(run.end(), {"--qmp", control, "--working-set", fmt::format("{}", working_set(options)),
                         "--dirty-rate", fmt::format("{}", options.dirty_rate), "--job-rate",
                         fmt::format("{}", options.job_rate), "--seed", fmt::format("{}", options.seed)});
  if (options.viommu) run.emplace_back("--viommu");
  if (incoming) run.insert(run.end(), {"--incoming", "tcp:127.0.0.1:0", "--prealloc"});
  HANDOVER_ASSIGN(side.machine_,
                  ChildProcess::start(run, {.name = fmt::format("the {} machine", name),
                                            .stderr_path = (folder / fmt::format("{}.log", name)).string()}));
  HANDOVER_TRY(side.machine_->read_line(cancel, start_deadline()));
  HANDOVER_ASSIGN(side.qmp_, control::QmpClient::connect(control, cancel, start_deadline()));
  return side;
}

Result<std::string> DemoSide::listening_on(const CancelToken& cancel) {
  HANDOVER_ASSIGN(auto answer, qmp_->execute("query-migrate", json::object(), cancel));
  try {
    const auto& address = answer.at("socket-address").at(0);
    return fmt::format("tcp:{}:{}", address.at("host").get<std::string>(),
                       address.at("port").get<std::string>());
  } catch (const json::exception& broken) {
    return fail(Errc::protocol, "the destination does not say where it listens: {}", broken.what());
  }
}

Result<GuestFigures> DemoSide::guest(const CancelToken& cancel) {
  HANDOVER_ASSIGN(auto answer, qmp_->execute("x-handover-guest", json::object(), cancel));
  return GuestFigures{.pages_written = number(answer, "pages-written"),
                      .jobs_completed = number(answer, "jobs-completed"),
                      .iommu_mappings = number(answer, "iommu-mappings"),
                      .iommu_faults = number(answer, "iommu-faults"),
                      .interrupts_lost = number(answer, "interrupts-lost"),
                      .mismatches = number(answer, "mismatches"),
                      .devices_lost = number(answer, "devices-lost")};
}

Status DemoSide::end(const CancelToken& cancel) {
  HANDOVER_TRY(qmp_->execute("quit", json::object(), cancel));
  HANDOVER_ASSIGN(auto code, machine_->wait(cancel, start_deadline()));
  if (code != 0) return fail(Errc::state, "a machine process ended with exit code {}", code);
  for (auto& device : devices_)
    if (const int ended = device.terminate(); ended != 0)
      return fail(Errc::state, "a device process ended with exit code {}", ended);
  return {};
}

Result<ScratchFolder> ScratchFolder::create(bool keep) {
  const char* base = std::getenv("TMPDIR");
  std::string pattern = fmt::format("{}/handover-demo-XXXXXX", base && *base ? base : "/tmp");
  if (!::mkdtemp(pattern.data())) return fail_errno(errno, "cannot make a folder like {}", pattern);
  return ScratchFolder(pattern, keep);
}

ScratchFolder::~ScratchFolder() {
  if (path_.empty() || keep_) return;
  std::error_code ignored;  // a leftover folder of sockets and logs harms nobody
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace handover::cli
