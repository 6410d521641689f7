#include "control/command_table.h"

#include <atomic>
#include <utility>

namespace handover::control {

using nlohmann::json;

struct Reply::State {
  explicit State(Sink to) : sink(std::move(to)) {}
  ~State() { give(fail(Errc::cancelled, "the command was abandoned before it had an answer")); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void give(Result<json> answer) {
    if (!given.exchange(true)) sink(std::move(answer));
  }

  Sink sink;
  std::atomic<bool> given{false};
};

Reply::Reply(Sink sink) : state_(std::make_shared<State>(std::move(sink))) {
}

void Reply::operator()(Result<json> answer) const {
  state_->give(std::move(answer));
}

void Reply::done(Status status) const {
  if (status)
    state_->give(json::object());
  else
    state_->give(std::unexpected(std::move(status).error()));
}

void CommandTable::add(std::string name, Handler handler) {
  handlers_.insert_or_assign(std::move(name), std::move(handler));
}

void CommandTable::add_quick(std::string name, Quick handler) {
  add(std::move(name), [handler = std::move(handler)](const json& arguments, const Reply& reply) {
    reply(handler(arguments));
  });
}

const CommandTable::Handler* CommandTable::find(std::string_view name) const {
  const auto at = handlers_.find(name);
  return at == handlers_.end() ? nullptr : &at->second;
}

std::vector<std::string> CommandTable::names() const {
  std::vector<std::string> all;
  for (const auto& [name, handler] : handlers_)
    all.push_back(name);
  return all;
}

}  // namespace handover::control
