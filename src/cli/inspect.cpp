#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/file_option.h"
#include "cli/inspect_table.h"
#include "handover/stream/inspector.h"

namespace handover::cli {
namespace {

struct Choices {
  std::string file;
  bool json = false;
  bool hash = false;
  std::uint64_t hash_limit_gib = 8;
};

Status run(const Choices& choices) {
  HANDOVER_ASSIGN(const auto address, file_address(choices.file));
  stream::InspectOptions options;
  options.hash = choices.hash;
  options.max_hashed_ram = choices.hash_limit_gib * GiB;
  HANDOVER_ASSIGN(auto facts, stream::inspect_file(address, options));
  const std::string text = choices.json ? stream::to_json(facts).dump(2) + "\n" : inspect_table(facts);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    return fail_errno(errno, "cannot write to standard output");
  return {};
}

}  // namespace

void add_inspect(CLI::App& app, int& exit_code) {
  auto choices = std::make_shared<Choices>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a saved migration stream contains");
  command->add_option("FILE", choices->file, "a file of QEMU's or Handover's, or file:PATH,offset=N")
      ->required();
  command->add_flag("--json", choices->json, "print JSON");
  command->add_flag("--hash", choices->hash, "add SHA-256 of the file, of each RAM block and of device data");
  command
      ->add_option("--hash-limit", choices->hash_limit_gib,
                   "hash streams of at most this many GiB of RAM, which are held in memory")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 20))
      ->capture_default_str();
  command->callback([choices, &exit_code] {
    auto done = run(*choices);
    if (done) return;
    std::fprintf(stderr, "handover inspect: %s\n", done.error().to_string().c_str());
    exit_code = 1;
  });
}

}  // namespace handover::cli
