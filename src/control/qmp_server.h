#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "control/command_table.h"
#include "control/qmp_session.h"
#include "handover/base/event_loop.h"

namespace handover::control {

/// QMP over a UNIX socket: any number of clients (up to a limit), commands from a table, events to all.
///
/// Everything runs on `loop` and nothing there blocks.  Made and destroyed on the loop's thread, or while the
/// loop does not run.  The server adds query-commands and query-version to the table.
class QmpServer {
 public:
  struct Options {
    QmpSession::Limits limits;
    std::size_t max_clients = 64;
  };

  static Result<std::unique_ptr<QmpServer>> listen(EventLoop& loop, const std::string& path,
                                                   CommandTable commands, Options options);
  static Result<std::unique_ptr<QmpServer>> listen(EventLoop& loop, const std::string& path,
                                                   CommandTable commands) {
    return listen(loop, path, std::move(commands), Options());
  }
  ~QmpServer();
  QmpServer(const QmpServer&) = delete;
  QmpServer& operator=(const QmpServer&) = delete;

  /// Any thread: sends an event, stamped with the present time, to every client that has negotiated.
  void emit(std::string_view name, nlohmann::json data = nlohmann::json::object());

 private:
  struct Impl;
  explicit QmpServer(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace handover::control
