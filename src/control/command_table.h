#pragma once

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "handover/base/result.h"

namespace handover::control {

/// The one answer to a command.  Copies share it; any thread may give it, and only the first is taken.  When
/// the last copy goes without an answer, the client is told that the command was abandoned.
class Reply {
 public:
  using Sink = std::function<void(Result<nlohmann::json>)>;
  /// `sink` is called once, on the thread that answers.
  explicit Reply(Sink sink);

  void operator()(Result<nlohmann::json> answer) const;
  /// An empty object, or the failure.
  void done(Status status) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// The commands of a QMP server, by name.  Filled before the server starts, and not changed after.
class CommandTable {
 public:
  /// Called on the server's event loop and must not block it: what takes long goes elsewhere and takes
  /// `reply` along.  Arguments are an object, its members unchecked.
  using Handler = std::function<void(const nlohmann::json& arguments, Reply reply)>;
  /// A command that answers at once.
  using Quick = std::function<Result<nlohmann::json>(const nlohmann::json& arguments)>;

  void add(std::string name, Handler handler);
  void add_quick(std::string name, Quick handler);
  const Handler* find(std::string_view name) const;
  std::vector<std::string> names() const;

 private:
  std::map<std::string, Handler, std::less<>> handlers_;
};

}  // namespace handover::control
