#include <poll.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/exit_with_parent.h"
#include "cli/interrupts.h"
#include "cli/size_option.h"
#include "devices/accelerator/accelerator.h"
#include "devices/accelerator/size_text.h"
#include "handover/base/event_loop.h"
#include "handover/vfio_user/server.h"

namespace handover::cli {
namespace {

struct Choices {
  std::string socket;
  std::uint64_t memory = 256 * MiB;
  bool with_parent = false;
};

Status serve_accelerator(const Choices& choices) {
  // Before the loop's and the device's threads, which must not take the signals.
  HANDOVER_ASSIGN(const auto interrupts, Interrupts::watch());
  if (choices.with_parent) HANDOVER_TRY(exit_with_parent());

  HANDOVER_ASSIGN(const auto device, accelerator::Accelerator::create({.memory_size = choices.memory}));
  EventLoop loop("device");
  loop.start_thread();
  vfio_user::ServerOptions options;
  options.socket_path = choices.socket;
  HANDOVER_ASSIGN(const auto server, vfio_user::Server::create(loop, *device, options));
  std::printf("serving accelerator (%s) on %s\n", accelerator::size_text(choices.memory).c_str(),
              choices.socket.c_str());
  if (std::fflush(stdout) != 0) return fail_errno(errno, "cannot write to standard output");
  HANDOVER_TRY(wait_fd(interrupts.first().fd(), POLLIN, {}));
  return {};
}

}  // namespace

void add_serve(CLI::App& app, int& exit_code) {
  CLI::App* serve = app.add_subcommand("serve", "Serve a device to a machine over vfio-user");
  serve->require_subcommand(1);

  auto choices = std::make_shared<Choices>();
  CLI::App* command =
      serve->add_subcommand("accelerator",
                            "A device with memory of its own and an engine that copies, fills and hashes.\n"
                            "Runs until SIGTERM or SIGINT; says on standard output when it is ready.");
  command->add_option("--socket", choices->socket, "UNIX socket to listen on; one client at a time")
      ->type_name("PATH")
      ->required();
  command->add_option("--memory", choices->memory, "device memory, e.g. 256M or 1G")
      ->transform(size_in(
          {.least = accelerator::kMinMemory, .most = accelerator::kMaxMemory, .multiple_of = kPageSize}))
      ->type_name("SIZE")
      ->default_str("256M");
  command->add_flag("--exit-with-parent", choices->with_parent,
                    "end when the process that started this one ends");
  command->callback([choices, &exit_code] {
    auto done = serve_accelerator(*choices);
    if (done) return;
    std::fprintf(stderr, "handover serve: %s\n", done.error().to_string().c_str());
    exit_code = 1;
  });
}

}  // namespace handover::cli
