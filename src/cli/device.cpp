#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/commands.h"
#include "cli/device_commands.h"
#include "cli/device_open.h"
#include "cli/device_target.h"

namespace handover::cli {
namespace {

// Opening a device as anybody opens one takes it to where it is of use.
Status start(const std::string& text) {
  HANDOVER_ASSIGN(const auto target, DeviceTarget::parse(text));
  HANDOVER_ASSIGN(const auto memory, GuestMemory::create(kPageSize));
  HANDOVER_ASSIGN(const auto device, open_target(target, *memory, {}));
  if (!device->migration())
    return fail(Errc::unsupported, "device `{}` has no states: {}", text, device->migration_blocker());
  HANDOVER_ASSIGN(const auto state, device->migration()->state());
  if (state != vfio::DeviceState::running)
    return fail(Errc::device, "device `{}` is in state {}", text, to_string(state));
  std::printf("%s runs\n", text.c_str());
  return {};
}

}  // namespace

void add_device_start(CLI::App& device, int& exit_code) {
  auto target = std::make_shared<std::string>();
  auto* command = device.add_subcommand(
      "start",
      "Set a stopped device running.\nNot one that was given up to another place, which has its state now.");
  command->add_option("TARGET", *target, DeviceTarget::kHelp)->required();
  command->callback([target, &exit_code] {
    auto done = start(*target);
    if (done) return;
    std::fprintf(stderr, "handover device start: %s\n", done.error().to_string().c_str());
    exit_code = 1;
  });
}

void add_device(CLI::App& app, int& exit_code) {
  auto* device = app.add_subcommand("device", "Look at, save, load and migrate a device that has no machine");
  device->require_subcommand(1);
  add_device_info(*device, exit_code);
  add_device_save(*device, exit_code);
  add_device_load(*device, exit_code);
  add_device_migrate(*device, exit_code);
  add_device_start(*device, exit_code);
}

}  // namespace handover::cli
