#include "integration/two_machines.h"

#include <filesystem>
#include <fstream>
#include <sstream>

namespace handover::test {

TestFolder::TestFolder() {
  char pattern[] = "/tmp/handover-test-XXXXXX";
  if (const char* made = ::mkdtemp(pattern)) path_ = made;
  EXPECT_FALSE(path_.empty());
}

TestFolder::~TestFolder() {
  if (testing::Test::HasFailure()) {
    fmt::print("logs are kept in {}\n", path_);
    return;
  }
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TestFolder::text(const std::string& name) const {
  std::ifstream in(file(name));
  std::ostringstream all;
  all << in.rdbuf();
  return all.str();
}

Side::Side(TestFolder& folder, const std::string& name, const SideOptions& options, bool incoming)
    : name_(name) {
  std::vector<std::string> run{HANDOVER_BINARY, "run", "--exit-with-parent", "--memory", options.memory};
  for (std::uint32_t i = 0; i < options.devices; ++i) {
    const auto id = fmt::format("accel{}", i);
    const auto socket = folder.file(fmt::format("{}-{}.sock", name, id));
    std::vector<std::string> serve{HANDOVER_BINARY, "serve", "accelerator", "--exit-with-parent",
                                   "--socket",      socket,  "--memory",    options.device_memory};
    if (i + 1 == options.devices)
      serve.insert(serve.end(), options.last_device.begin(), options.last_device.end());
    auto server = cli::ChildProcess::start(
        serve, {.name = name + " " + id, .stderr_path = folder.file(fmt::format("{}-{}.log", name, id))});
    if (!server) throw std::runtime_error(server.error().to_string());
    if (auto ready = server->read_line({}, patience()); !ready)
      throw std::runtime_error(ready.error().to_string());
    devices_.push_back(std::move(*server));
    run.insert(run.end(), {"--device", fmt::format("vfio-user,socket={},id={}", socket, id)});
  }
  const auto control = folder.file(name + ".qmp");
  run.insert(run.end(), {"--qmp", control});
  run.insert(run.end(), options.more.begin(), options.more.end());
  if (incoming) run.insert(run.end(), {"--incoming", "tcp:127.0.0.1:0"});
  auto machine = cli::ChildProcess::start(run, {.name = name, .stderr_path = folder.file(name + ".log")});
  if (!machine) throw std::runtime_error(machine.error().to_string());
  machine_ = std::move(*machine);
  if (auto ready = machine_->read_line({}, patience()); !ready)
    throw std::runtime_error(ready.error().to_string());
  auto qmp = control::QmpClient::connect(control, {}, patience());
  if (!qmp) throw std::runtime_error(qmp.error().to_string());
  qmp_ = std::move(*qmp);
}

Result<json> Side::ask(const std::string& command, json arguments) {
  return qmp_->execute(command, std::move(arguments), {}, patience());
}

void Side::set_capability(const char* name, bool state) {
  const auto set = ask("migrate-set-capabilities",
                       {{"capabilities", json::array({{{"capability", name}, {"state", state}}})}});
  ASSERT_TRUE(set) << set.error().to_string();
}

std::string Side::run_state() {
  auto answer = ask("query-status");
  return answer ? answer->at("status").get<std::string>() : "gone";
}

std::string Side::migration_status() {
  auto answer = ask("query-migrate");
  return answer ? answer->value("status", "none") : "gone";
}

std::string Side::listening_on() {
  auto answer = ask("query-migrate");
  if (!answer) throw std::runtime_error(answer.error().to_string());
  const auto& address = answer->at("socket-address").at(0);
  return fmt::format("tcp:{}:{}", address.at("host").get<std::string>(),
                     address.at("port").get<std::string>());
}

json Side::guest() {
  auto answer = ask("x-handover-guest");
  return answer ? *answer : json::object();
}

void Side::expect_progress(const std::string& when) {
  const auto before = guest().value("pages-written", std::uint64_t{0});
  wait_until(fmt::format("the guest on the {} to write, {}", name_, when),
             [&] { return guest().value("pages-written", std::uint64_t{0}) > before; });
}

std::vector<std::pair<std::string, std::int64_t>> Side::events() {
  std::vector<std::pair<std::string, std::int64_t>> all;
  for (;;) {
    auto event = qmp_->next_event({}, std::chrono::steady_clock::now());
    if (!event || !*event) return all;
    all.emplace_back((*event)->name, (*event)->microseconds);
  }
}

void wait_until(const std::string& what, const std::function<bool()>& holds) {
  const auto end = patience();
  while (!holds()) {
    if (std::chrono::steady_clock::now() > *end) {
      ADD_FAILURE() << "waited in vain for " << what;
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

bool is_final_status(const std::string& status) {
  return status == "completed" || status == "failed" || status == "cancelled" || status == "in-doubt" ||
         status == "gone";
}

}  // namespace handover::test
