// Everything that a QMP client can send, in pieces of any size: framing, parsing, and the arguments that are
// checked before any command is carried out.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "control/migration_json.h"
#include "control/qmp_framer.h"
#include "control/qmp_message.h"
#include "handover/migration/parameters.h"

using namespace handover;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kMaxText = 4096;
  if (size == 0) return 0;
  const std::size_t piece = 1 + data[0] % 64;
  std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  control::QmpFramer framer(kMaxText);
  Parameters parameters;
  Capabilities capabilities;
  while (!input.empty()) {
    framer.append(input.substr(0, piece));
    input.remove_prefix(std::min(piece, input.size()));
    while (auto text = framer.next()) {
      if (!*text) continue;
      if ((*text)->size() > kMaxText) std::abort();
      auto parsed = control::parse_request(**text);
      // What is answered must be one line of JSON again.
      const auto line = control::to_line(control::error_message(control::kGenericError, **text, parsed.id));
      if (line.find('\n') != line.size() - 1 || !control::parse_json(line)) std::abort();
      if (!parsed.request) continue;
      const auto& arguments = parsed.request->arguments;
      if (auto address = control::migration_address(arguments)) (void)control::socket_address_json(*address);
      (void)apply_changes(parameters, arguments);
      if (auto list = arguments.find("capabilities"); list != arguments.end())
        (void)apply_changes(capabilities, *list);
    }
  }
  if (parameters.downtime_limit_ms > 2'000'000) std::abort();
  return 0;
}
