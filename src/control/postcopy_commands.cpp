#include "control/json_members.h"
#include "control/machine_commands.h"

namespace handover::control {

void add_postcopy_commands(CommandTable& commands) {
  struct Refused {
    const char* name;
    const char* argument;  // the only one that it has, if any
  };
  for (const auto& refused : {Refused{"migrate-start-postcopy", ""}, Refused{"migrate-recover", "uri"},
                              Refused{"migrate-pause", ""}})
    commands.add_quick(refused.name, [refused](const nlohmann::json& arguments) -> Result<nlohmann::json> {
      if (*refused.argument)
        HANDOVER_TRY(only_members(arguments, refused.name, {refused.argument}));
      else
        HANDOVER_TRY(only_members(arguments, refused.name, {}));
      return fail(
          Errc::unsupported,
          "{} is for postcopy, which is not possible with VFIO devices: they write guest memory by DMA, "
          "which cannot wait for a page that is still at the source",
          refused.name);
    });
}

}  // namespace handover::control
