#include "control/json_members.h"
#include "control/machine_commands.h"
#include "control/migration_json.h"

namespace handover::control {

using nlohmann::json;

namespace {

Result<Address> migrate_arguments(const json& arguments) {
  HANDOVER_TRY(only_members(arguments, "migrate", {"uri", "channels", "resume"}));
  HANDOVER_ASSIGN(const auto resume, optional_flag(arguments, "resume"));
  if (resume.value_or(false))
    return fail(Errc::unsupported,
                "'resume' is for postcopy, which machines with such devices do not support");
  return migration_address(arguments);
}

struct IncomingArguments {
  Address from;
  bool exit_on_error = false;
};

Result<IncomingArguments> incoming_arguments(const json& arguments) {
  HANDOVER_TRY(only_members(arguments, "migrate-incoming", {"uri", "channels", "exit-on-error"}));
  // Unlike QEMU's, our machine stays by default, to be asked why it failed.
  HANDOVER_ASSIGN(const auto exit, optional_flag(arguments, "exit-on-error"));
  HANDOVER_ASSIGN(auto from, migration_address(arguments));
  return IncomingArguments{std::move(from), exit.value_or(false)};
}

Result<json> capability_list(const json& arguments) {
  HANDOVER_TRY(only_members(arguments, "migrate-set-capabilities", {"capabilities"}));
  const auto list = arguments.find("capabilities");
  if (list == arguments.end()) return fail(Errc::invalid_argument, "'capabilities' is missing");
  return *list;
}

Result<bool> resolve_arguments(const json& arguments) {
  HANDOVER_TRY(only_members(arguments, "x-handover-resolve", {"resume"}));
  return required_flag(arguments, "resume");
}

Result<std::string> continue_arguments(const json& arguments) {
  HANDOVER_TRY(only_members(arguments, "migrate-continue", {"state"}));
  return required_text(arguments, "state");
}

// A command whose arguments are checked by `check` before `act` gets them and the reply.
template <class Check, class Act>
CommandTable::Handler checked(Check check, Act act) {
  return [check, act](const json& arguments, Reply reply) {
    auto value = check(arguments);
    if (!value) return reply(std::unexpected(std::move(value).error()));
    act(std::move(*value), std::move(reply));
  };
}

CommandTable::Handler without_arguments(const char* name, std::function<void(Reply)> act) {
  return [name, act = std::move(act)](const json& arguments, Reply reply) {
    if (auto known = only_members(arguments, name, {}); !known) return reply.done(std::move(known));
    act(std::move(reply));
  };
}

}  // namespace

void add_migration_commands(CommandTable& commands, MigrationController& migration) {
  auto* control = &migration;
  commands.add("migrate", checked(migrate_arguments, [control](Address to, Reply reply) {
                 control->migrate(std::move(to), std::move(reply));
               }));
  commands.add("migrate-incoming",
               checked(incoming_arguments, [control](IncomingArguments with, Reply reply) {
                 control->incoming(with.from, with.exit_on_error, std::move(reply));
               }));
  commands.add("migrate-continue",
               checked(continue_arguments, [control](const std::string& state, Reply reply) {
                 control->continue_switchover(state, std::move(reply));
               }));
  commands.add("x-handover-resolve", checked(resolve_arguments, [control](bool resume, Reply reply) {
                 control->resolve(resume, std::move(reply));
               }));
  commands.add("migrate-set-capabilities", checked(capability_list, [control](const json& list, Reply reply) {
                 control->set_capabilities(list, std::move(reply));
               }));
  commands.add("migrate-set-parameters", [control](const json& arguments, Reply reply) {
    control->set_parameters(arguments, std::move(reply));
  });

  struct Plain {
    const char* name;
    void (MigrationController::*act)(Reply);
  };
  for (const auto& plain : {Plain{"migrate_cancel", &MigrationController::cancel},
                            Plain{"query-migrate", &MigrationController::query},
                            Plain{"query-migrate-parameters", &MigrationController::query_parameters},
                            Plain{"query-migrate-capabilities", &MigrationController::query_capabilities},
                            Plain{"x-handover-report", &MigrationController::report}})
    commands.add(plain.name, without_arguments(plain.name, [control, act = plain.act](Reply reply) {
                   (control->*act)(std::move(reply));
                 }));
}

}  // namespace handover::control
