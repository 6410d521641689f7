#include "control/migration_controller.h"

#include <future>

#include "control/migration_json.h"

namespace handover::control {

using nlohmann::json;

MigrationController::MigrationController(Machine& machine, RamMigration& ram, Blockers& blockers,
                                         Options options)
    : machine_(machine), ram_(ram), blockers_(blockers), options_(std::move(options)) {
  worker_.start_thread();
}

MigrationController::~MigrationController() {
  std::promise<void> closed;
  close([&closed] { closed.set_value(); });
  closed.get_future().wait();
}

void MigrationController::close(std::function<void()> done) {
  worker_.post([this, done = std::move(done)] {
    closed_ = true;
    source_.reset();
    destination_.reset();
    done();
  });
}

void MigrationController::answer(Reply reply, std::function<Result<json>()> work) {
  worker_.post([this, reply = std::move(reply), work = std::move(work)] {
    if (closed_)
      reply(fail(Errc::state, "the machine is about to end"));
    else
      reply(work());
  });
}

void MigrationController::act(Reply reply, std::function<Status()> work) {
  answer(std::move(reply), [work = std::move(work)]() -> Result<json> {
    HANDOVER_TRY(work());
    return json::object();
  });
}

std::function<void(MigrationStatus)> MigrationController::status_observer(
    bool events, std::function<void(MigrationStatus)> also) {
  return [this, events, also = std::move(also)](MigrationStatus status) {
    if (also) also(status);
    if (events && options_.emit) options_.emit("MIGRATION", {{"status", to_string(status)}});
  };
}

Status MigrationController::check_may_leave(RunState through) const {
  if (source_ && source_->status() == MigrationStatus::in_doubt)
    return fail(Errc::state,
                "the last migration is in doubt: find out whether the machine runs at its destination, then "
                "settle it with x-handover-resolve");
  if (source_ && !is_final(source_->status()))
    return fail(Errc::state, "a {} is under way already (status {}); wait for its end, or cancel it",
                snapshot_.empty() ? "migration" : "snapshot", to_string(source_->status()));
  const auto state = machine_.state();
  if (state == RunState::inmigrate)
    return fail(Errc::state, "this machine waits for an incoming migration itself and has nothing to send");
  if (state == RunState::postmigrate)
    return fail(Errc::state, "this machine has been given up to a destination; it must not leave twice");
  if (!run_state_arc_exists(state, through)) {
    const auto trouble = machine_.trouble();
    return fail(Errc::state, "a machine in run state {} cannot {}{}{}", to_string(state),
                through == RunState::save_vm ? "be saved" : "migrate", trouble.empty() ? "" : ": ", trouble);
  }
  return blockers_.check();
}

Source::Options MigrationController::source_options() {
  Source::Options options;
  options.parameters = parameters_;
  options.capabilities = capabilities_;
  options.on_status = status_observer(capabilities_.events,
                                      [current = outgoing_](MigrationStatus status) { *current = status; });
  if (capabilities_.events && options_.emit)
    options.on_pass = [this](std::uint64_t pass) { options_.emit("MIGRATION_PASS", {{"pass", pass}}); };
  return options;
}

Status MigrationController::start_outgoing(Address to) {
  HANDOVER_TRY(check_may_leave(RunState::finish_migrate));
  source_.reset();
  snapshot_.clear();
  *outgoing_ = MigrationStatus::none;
  source_ = std::make_unique<Source>(machine_, &ram_, source_options());
  source_->start(std::move(to));
  return {};
}

Status MigrationController::start_snapshot(const SnapshotRequest& request) {
  HANDOVER_TRY(check_may_leave(RunState::save_vm));
  source_.reset();
  snapshot_ = request.plan.path;
  *outgoing_ = MigrationStatus::none;
  auto options = source_options();
  options.capabilities.mapped_ram = request.mapped_ram.value_or(capabilities_.mapped_ram);
  options.parameters.direct_io = request.direct_io.value_or(parameters_.direct_io);
  source_ = std::make_unique<Source>(machine_, &ram_, std::move(options));
  source_->start(request.plan);
  return {};
}

void MigrationController::snapshot(SnapshotRequest request, Reply reply) {
  act(std::move(reply), [this, request = std::move(request)] { return start_snapshot(request); });
}

json MigrationController::with_snapshot(json object) const {
  if (!snapshot_.empty()) object["x-handover-snapshot"] = snapshot_;
  return object;
}

void MigrationController::migrate(Address to, Reply reply) {
  act(std::move(reply), [this, to = std::move(to)] { return start_outgoing(to); });
}

Status MigrationController::start_incoming(const Address& from, bool exit_on_error) {
  if (machine_.state() != RunState::inmigrate)
    return fail(Errc::state,
                "this machine does not wait for an incoming migration (run state {}); start one that does",
                to_string(machine_.state()));
  if (destination_ && is_final(destination_->status()))
    return fail(Errc::state,
                "an incoming migration has ended here already ({}); start a fresh machine for the next",
                to_string(destination_->status()));
  if (destination_) return fail(Errc::state, "an incoming migration has been started already");
  HANDOVER_ASSIGN(auto listener, listen_on(from));
  listening_ = listener->address();
  Destination::Options options;
  options.capabilities = capabilities_;
  options.parameters = parameters_;
  options.start_paused = options_.incoming_paused;
  if (from.kind == Address::Kind::file) options.what = "loading " + from.to_string();
  options.on_status = status_observer(capabilities_.events, [this, exit_on_error](MigrationStatus status) {
    if (status == MigrationStatus::failed && exit_on_error && options_.incoming_failed)
      options_.incoming_failed();
  });
  destination_ = std::make_unique<Destination>(machine_, std::move(options));
  destination_->start(std::move(listener));
  return {};
}

void MigrationController::incoming(const Address& from, bool exit_on_error, Reply reply) {
  act(std::move(reply), [this, from, exit_on_error] { return start_incoming(from, exit_on_error); });
}

Status MigrationController::cancel_now() {
  if (source_) HANDOVER_TRY(source_->cancel());
  if (destination_) HANDOVER_TRY(destination_->cancel());
  return {};
}

void MigrationController::cancel(Reply reply) {
  act(std::move(reply), [this] { return cancel_now(); });
}

void MigrationController::continue_switchover(const std::string& state, Reply reply) {
  act(std::move(reply), [this, state]() -> Status {
    if (state != to_string(MigrationStatus::pre_switchover))
      return fail(Errc::invalid_argument, "'state' must be pre-switchover, where a migration waits");
    if (!source_) return fail(Errc::state, "no migration waits to be continued");
    return source_->continue_switchover();
  });
}

void MigrationController::resolve(bool resume, Reply reply) {
  act(std::move(reply), [this, resume]() -> Status {
    if (!source_) return fail(Errc::state, "there is nothing to resolve: no migration has left from here");
    return source_->resolve(resume);
  });
}

void MigrationController::set_parameters(const json& changes, Reply reply) {
  act(std::move(reply), [this, changes]() -> Status {
    HANDOVER_TRY(apply_changes(parameters_, changes));
    if (source_) source_->set_parameters(parameters_);
    return {};
  });
}

void MigrationController::set_capabilities(const json& changes, Reply reply) {
  act(std::move(reply), [this, changes]() -> Status {
    if ((source_ && !is_final(source_->status())) || (destination_ && !is_final(destination_->status())))
      return fail(Errc::state, "capabilities cannot change while a migration is under way");
    return apply_changes(capabilities_, changes);
  });
}

void MigrationController::query_parameters(Reply reply) {
  answer(std::move(reply), [this] { return to_json(parameters_); });
}

void MigrationController::query_capabilities(Reply reply) {
  answer(std::move(reply), [this] { return to_json(capabilities_); });
}

void MigrationController::query(Reply reply) {
  answer(std::move(reply), [this]() -> Result<json> {
    auto object = json::object();
    if (source_)
      object = with_snapshot(query_migrate(source_->statistics()));
    else if (destination_)
      object = query_incoming(destination_->status(), destination_->error(), listening_);
    if (const auto reasons = blockers_.reasons(); !reasons.empty()) object["blocked-reasons"] = reasons;
    return object;
  });
}

void MigrationController::report(Reply reply) {
  answer(std::move(reply), [this]() -> Result<json> {
    if (!source_) return fail(Errc::state, "no migration has left from here, so there is nothing to report");
    return with_snapshot(full_report(source_->statistics()));
  });
}

std::string MigrationController::under_way() const {
  if (source_ && source_->status() == MigrationStatus::in_doubt)
    return "the last migration is in doubt; settle it with x-handover-resolve";
  if (source_ && !is_final(source_->status()))
    return fmt::format("a migration is under way (status {}); wait for its end, or cancel it",
                       to_string(source_->status()));
  if (destination_ && !is_final(destination_->status()))
    return "this machine waits for an incoming migration already; start it with --incoming defer, and give "
           "the "
           "address when it is complete";
  return {};
}

void MigrationController::between_migrations(std::string what, Reply reply,
                                             std::function<Result<json>()> work) {
  answer(std::move(reply), [this, what = std::move(what), work = std::move(work)]() -> Result<json> {
    if (const auto busy = under_way(); !busy.empty())
      return fail(Errc::state, "cannot {} now: {}", what, busy);
    return work();
  });
}

void MigrationController::beside_migrations(
    Reply reply, std::function<Result<json>(bool idle, const Statistics& outgoing)> work) {
  answer(std::move(reply), [this, work = std::move(work)] {
    return work(under_way().empty(), source_ ? source_->statistics() : Statistics{});
  });
}

}  // namespace handover::control
