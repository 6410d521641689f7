#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/device_commands.h"
#include "cli/device_facts_text.h"
#include "cli/device_open.h"
#include "cli/device_target.h"

namespace handover::cli {
namespace {

Status show(const std::string& target, bool json) {
  HANDOVER_ASSIGN(const auto open, open_as_found(target));
  HANDOVER_ASSIGN(const auto facts, solo::look_at(*open.device));
  const auto text = json ? facts_json(facts).dump(2) + "\n" : facts_text(facts);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    return fail_errno(errno, "cannot write to standard output");
  return {};
}

}  // namespace

void add_device_info(CLI::App& device, int& exit_code) {
  auto target = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  auto* command = device.add_subcommand("info", "Show what a device is, how it migrates and where it is");
  command->add_option("TARGET", *target, DeviceTarget::kHelp)->required();
  command->add_flag("--json", *json, "print JSON");
  command->callback([target, json, &exit_code] {
    auto done = show(*target, *json);
    if (done) return;
    std::fprintf(stderr, "handover device info: %s\n", done.error().to_string().c_str());
    exit_code = 1;
  });
}

}  // namespace handover::cli
