#include "control/device_commands.h"

#include <algorithm>

#include "control/device_json.h"
#include "control/json_members.h"

namespace handover::control {

using nlohmann::json;

void DeviceCommands::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  if (plugging_) plugging_->cancel("the machine is about to end");
}

Result<json> DeviceCommands::plug(const vmm::DeviceOptions& device) {
  CancelToken cancel;
  {
    // A source for each: the device keeps the token, and a later close() must not lose it.
    std::lock_guard lock(mutex_);
    if (closed_) return fail(Errc::state, "the machine is about to end");
    cancel = plugging_.emplace().token();
  }
  auto plugged = vm_.plug(device, cancel);
  {
    std::lock_guard lock(mutex_);
    plugging_.reset();
  }
  HANDOVER_TRY(std::move(plugged));
  return json::object();
}

Result<json> DeviceCommands::query(bool idle, const Statistics& outgoing) const {
  auto all = json::array();
  // The devices answer to the migration alone while one is under way.
  for (const auto& device : idle ? vm_.ask_devices() : vm_.devices()) {
    std::optional<std::uint64_t> pending;
    const auto item = std::ranges::find(outgoing.items, device.path + "/vfio", &ItemStatistics::section);
    if (!idle && item != outgoing.items.end()) pending = item->pending_bytes;
    all.push_back(device_json(device, pending));
  }
  return all;
}

void DeviceCommands::add_to(CommandTable& commands, MigrationController& migration) {
  commands.add("device_add", [this, &migration](const json& arguments, Reply reply) {
    auto device = device_arguments(arguments);
    if (!device) return reply(std::unexpected(std::move(device).error()));
    migration.between_migrations("plug a device", std::move(reply),
                                 [this, device = std::move(*device)] { return plug(device); });
  });
  commands.add("device_del", [this, &migration](const json& arguments, const Reply& reply) {
    auto id = [&]() -> Result<std::string> {
      HANDOVER_TRY(only_members(arguments, "device_del", {"id"}));
      return required_text(arguments, "id");
    }();
    if (!id) return reply(std::unexpected(std::move(id).error()));
    // The answer first, as from QEMU.
    const Reply then_event([this, reply, id = *id](Result<json> answer) {
      const bool gone = answer.has_value();
      reply(std::move(answer));
      if (gone) emit_("DEVICE_DELETED", {{"device", id}, {"path", "/machine/peripheral/" + id}});
    });
    migration.between_migrations("unplug a device", then_event, [this, id = *id]() -> Result<json> {
      HANDOVER_TRY(vm_.unplug(id));
      return json::object();
    });
  });
  commands.add("x-handover-query-devices", [this, &migration](const json& arguments, Reply reply) {
    if (auto known = only_members(arguments, "x-handover-query-devices", {}); !known)
      return reply.done(std::move(known));
    migration.beside_migrations(
        std::move(reply), [this](bool idle, const Statistics& outgoing) { return query(idle, outgoing); });
  });
}

}  // namespace handover::control
