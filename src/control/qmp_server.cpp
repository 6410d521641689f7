#include "control/qmp_server.h"

#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <optional>
#include <set>

#include "control/json_members.h"
#include "control/qmp_message.h"
#include "control/socket_path.h"
#include "handover/base/log.h"

namespace handover::control {

using nlohmann::json;
using Protocol = asio::local::stream_protocol;

namespace {

void add_own_commands(CommandTable& commands) {
  commands.add_quick("query-version", [](const json& arguments) -> Result<json> {
    HANDOVER_TRY(only_members(arguments, "query-version", {}));
    return version();
  });
  auto names = commands.names();
  names.insert(names.end(), {"qmp_capabilities", "query-commands"});
  auto list = json::array();
  for (const auto& name : names)
    list.push_back({{"name", name}});
  commands.add_quick("query-commands", [list](const json& arguments) -> Result<json> {
    HANDOVER_TRY(only_members(arguments, "query-commands", {}));
    return list;
  });
}

}  // namespace

struct QmpServer::Impl : std::enable_shared_from_this<Impl> {
  Impl(EventLoop& loop, SocketPath at, std::shared_ptr<const CommandTable> table, Options wanted)
      : gate(std::make_shared<LoopGate>(loop)),
        path(std::move(at)),
        commands(std::move(table)),
        options(wanted),
        acceptor(loop.context()),
        pause(loop.context()) {}

  Status open() {
    UniqueFd second = path->duplicate();
    if (!second) return fail_errno(errno, "cannot listen on {}", path->path());
    asio::error_code error;
    acceptor.assign(Protocol(), second.release(), error);
    if (error) return fail(Errc::io, "cannot listen on {}: {}", path->path(), error.message());
    return {};
  }

  void accept() {
    acceptor.async_accept(
        [self = shared_from_this()](const asio::error_code& error, Protocol::socket socket) {
          if (self->closed) return;
          if (error) return self->accept_later(error.message());
          self->welcome(std::move(socket));
          self->accept();
        });
  }

  // Out of descriptors, most likely: trying again at once would only burn time.
  void accept_later(const std::string& why) {
    log::warn("qmp: cannot accept a client on {}: {}", path->path(), why);
    pause.expires_after(std::chrono::milliseconds(200));
    pause.async_wait([self = shared_from_this()](const asio::error_code&) {
      if (!self->closed) self->accept();
    });
  }

  void welcome(Protocol::socket socket) {
    if (sessions.size() >= options.max_clients) {
      log::warn("qmp: {} clients are connected, another is turned away", sessions.size());
      return;
    }
    auto session = std::make_shared<QmpSession>(
        std::move(socket), gate, commands, options.limits, [weak = weak_from_this()](QmpSession* ended) {
          auto self = weak.lock();
          if (self) std::erase_if(self->sessions, [&](const auto& one) { return one.get() == ended; });
        });
    sessions.insert(session);
    session->start();
  }

  void close() {
    closed = true;
    gate->close();
    asio::error_code ignored;
    acceptor.close(ignored);
    pause.cancel();
    path.reset();
    for (const auto& session : std::exchange(sessions, {}))
      session->close();
  }

  std::shared_ptr<LoopGate> gate;
  std::optional<SocketPath> path;  // empty once closed
  std::shared_ptr<const CommandTable> commands;
  Options options;
  Protocol::acceptor acceptor;
  asio::steady_timer pause;
  std::set<std::shared_ptr<QmpSession>> sessions;
  bool closed = false;
};

Result<std::unique_ptr<QmpServer>> QmpServer::listen(EventLoop& loop, const std::string& path,
                                                     CommandTable commands, Options options) {
  HANDOVER_ASSIGN(auto at, SocketPath::listen(path));
  add_own_commands(commands);
  auto impl = std::make_shared<Impl>(loop, std::move(at),
                                     std::make_shared<const CommandTable>(std::move(commands)), options);
  HANDOVER_TRY(impl->open());
  impl->accept();
  return std::unique_ptr<QmpServer>(new QmpServer(std::move(impl)));
}

QmpServer::QmpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {
}

QmpServer::~QmpServer() {
  impl_->close();
}

void QmpServer::emit(std::string_view name, json data) {
  auto line = to_line(event_message(name, std::move(data), std::chrono::system_clock::now()));
  impl_->gate->post([weak = std::weak_ptr(impl_), line = std::move(line)] {
    auto impl = weak.lock();
    if (!impl) return;
    // A session that is dropped over this leaves the set.
    const std::vector<std::shared_ptr<QmpSession>> all(impl->sessions.begin(), impl->sessions.end());
    for (const auto& session : all)
      session->emit(line);
  });
}

}  // namespace handover::control
