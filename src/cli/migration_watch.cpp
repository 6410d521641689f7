#include "cli/migration_watch.h"

#include <poll.h>
#include <unistd.h>

#include <chrono>

namespace handover::cli {

using nlohmann::json;

namespace {

constexpr std::chrono::milliseconds kBetweenLooks{200};

bool is_end(const std::string& status) {
  return status == "completed" || status == "failed" || status == "cancelled" || status == "in-doubt";
}

}  // namespace

Result<json> MigrationWatch::to_the_end() {
  for (;;) {
    if (!cancel_sent_ && interrupts_.first().cancelled()) HANDOVER_TRY(send_cancel());
    auto figures = client_.execute("query-migrate", json::object(), token());
    if (!figures && figures.error().code() == Errc::cancelled && !interrupts_.again().cancelled()) continue;
    if (!figures) return figures;
    const auto status = text_of(*figures, "status");
    if (is_end(status)) return figures;
    progress_.show(*figures);
    if (status == "pre-switchover") HANDOVER_TRY(at_pre_switchover());
    HANDOVER_TRY(wait_a_little());
  }
}

Status MigrationWatch::send_cancel() {
  cancel_sent_ = true;
  progress_.say("cancelling; interrupt again to stop watching");
  auto answer = client_.execute("migrate_cancel", json::object(), interrupts_.again());
  if (answer) return {};
  if (!control::is_answer(answer.error())) return std::unexpected(std::move(answer).error());
  too_late_ = answer.error().to_string();
  return {};
}

Status MigrationWatch::at_pre_switchover() {
  if (continued_ || cancel_sent_) return {};
  if (!std::exchange(asked_to_continue_, true))
    progress_.say("the guest stands still: Enter hands it over, Ctrl-C takes it back");
  if (input_ended_) return {};
  pollfd input{STDIN_FILENO, POLLIN, 0};
  if (::poll(&input, 1, 0) != 1) return {};
  char typed[256];
  const auto count = ::read(STDIN_FILENO, typed, sizeof typed);
  if (count <= 0) {
    input_ended_ = true;
    progress_.say("nothing can be typed here: the QMP command migrate-continue hands the guest over");
    return {};
  }
  if (std::string_view(typed, static_cast<std::size_t>(count)).find('\n') == std::string_view::npos)
    return {};
  continued_ = true;
  auto answer = client_.execute("migrate-continue", {{"state", "pre-switchover"}}, interrupts_.again());
  // It may have been continued or cancelled by somebody else meanwhile; the next look tells.
  if (!answer && !control::is_answer(answer.error())) return std::unexpected(std::move(answer).error());
  return {};
}

Status MigrationWatch::wait_a_little() {
  const auto until = std::chrono::steady_clock::now() + kBetweenLooks;
  // A change of status is worth a look at once; other events are not.
  for (;;) {
    auto event = client_.next_event(token(), until);
    if (!event && event.error().code() == Errc::cancelled)
      return interrupts_.again().cancelled() ? interrupts_.again().check() : Status{};
    if (!event) return std::unexpected(std::move(event).error());
    if (!*event || (*event)->name == "MIGRATION") return {};
  }
}

}  // namespace handover::cli
