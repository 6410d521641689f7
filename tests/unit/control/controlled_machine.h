#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "control/machine_control.h"
#include "control/qmp_client.h"
#include "unit/control/qmp_harness.h"
#include "unit/migration/small_machine.h"

namespace handover::control {

/// A small machine with its QMP socket and a client of it.
class ControlledMachine {
 public:
  struct Options {
    RunState initial = RunState::prelaunch;
    bool incoming_paused = false;
    std::uint64_t ram = 256 * KiB;
  };

  ControlledMachine(const std::string& path, Options options) : machine(options.ram, options.initial) {
    main_.start_thread();
    main_.call([&] {
      auto made = MachineControl::create(
          main_, {.qmp_path = path,
                  .machine = machine.machine,
                  .ram = machine.ram_migration,
                  .blockers = blockers,
                  .incoming_paused = options.incoming_paused,
                  .quit = [this](int code) { quit_code_.set_value(code); },
                  .guest_report = []() -> Result<nlohmann::json> { return nlohmann::json{{"ticks", 7}}; },
                  .verify = [](const Reply& reply) { reply(nlohmann::json{{"mismatches", 0}}); }});
      if (!made) throw std::runtime_error(made.error().to_string());
      control_ = std::move(*made);
    });
    auto connected = QmpClient::connect(path, {});
    if (!connected) throw std::runtime_error(connected.error().to_string());
    client_ = std::make_unique<QmpClient>(std::move(*connected));
  }
  ~ControlledMachine() {
    std::promise<void> closed;
    control_->close([&] { closed.set_value(); });
    closed.get_future().wait();
    main_.call([&] { control_.reset(); });
  }
  ControlledMachine(const ControlledMachine&) = delete;
  ControlledMachine& operator=(const ControlledMachine&) = delete;

  QmpClient& client() { return *client_; }
  MachineControl& control() { return *control_; }
  std::future<int> quit_code() { return quit_code_.get_future(); }

  /// The answer, or {"error": text}.
  nlohmann::json ask(std::string_view command, nlohmann::json arguments = nlohmann::json::object()) {
    auto answer = client_->execute(command, std::move(arguments));
    if (!answer) return {{"error", answer.error().to_string()}};
    return *answer;
  }
  void must(std::string_view command, nlohmann::json arguments = nlohmann::json::object()) {
    const auto answer = ask(command, std::move(arguments));
    EXPECT_EQ(answer, nlohmann::json::object()) << command;
  }
  std::string refused(std::string_view command, nlohmann::json arguments = nlohmann::json::object()) {
    const auto answer = ask(command, std::move(arguments));
    EXPECT_TRUE(answer.contains("error")) << command << " was answered with " << answer;
    return answer.value("error", "");
  }
  void capability(const char* name, bool state) {
    must("migrate-set-capabilities",
         {{"capabilities", nlohmann::json::array({{{"capability", name}, {"state", state}}})}});
  }
  std::string run_state() { return ask("query-status").value("status", ""); }
  std::string migration_status() { return ask("query-migrate").value("status", "none"); }

  /// Waits until the migration has this status; any other final one is a failure.
  void wait_for(const std::string& wanted) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    for (;;) {
      const auto now = ask("query-migrate");
      const auto status = now.value("status", "none");
      if (status == wanted) return;
      const bool over =
          status == "completed" || status == "failed" || status == "cancelled" || status == "in-doubt";
      if (over || std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << "waited for " << wanted << ", got " << now;
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  /// The names of the events so far; those of MIGRATION with their status.
  std::vector<std::string> events() {
    std::vector<std::string> names;
    for (;;) {
      auto event = client_->next_event({}, std::chrono::steady_clock::now());
      if (!event || !*event) return names;
      names.push_back((*event)->name);
      if ((*event)->name == "MIGRATION") names.back() += " " + (*event)->data.value("status", "");
    }
  }

  test::SmallMachine machine;
  Blockers blockers;

 private:
  EventLoop main_{"main"};
  std::promise<int> quit_code_;
  std::unique_ptr<MachineControl> control_;
  std::unique_ptr<QmpClient> client_;
};

}  // namespace handover::control
