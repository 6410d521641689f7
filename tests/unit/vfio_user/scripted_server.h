#pragma once

#include <functional>
#include <future>
#include <map>

#include "handover/memory/guest_memory.h"
#include "handover/vfio_user/client.h"
#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {

/// A server that does what a test tells it, right or wrong; otherwise it behaves like a simple device behind
/// libvfio-user: no twin socket, no words of ours, replies to migration reads padded to what was asked for.
class ScriptedServer {
 public:
  struct Answer {
    MessageBuilder payload;
    int error = 0;
    std::vector<UniqueFd> fds;
    bool silent = false;
  };
  using Script = std::function<Answer(ScriptedServer&, const Message&)>;

  explicit ScriptedServer(const std::string& name) : path_(test_socket_path(name)) {
    listener_ = std::move(*listen_unix(path_));
    for (const auto command : {protocol::Command::version, protocol::Command::device_get_info,
                               protocol::Command::device_get_region_info,
                               protocol::Command::device_get_irq_info, protocol::Command::device_feature})
      scripts_[command] = &ScriptedServer::usual;
  }
  ~ScriptedServer() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
    ::unlink(path_.c_str());
  }

  ScriptedServer& on(protocol::Command command, Script script) {
    scripts_[command] = std::move(script);
    return *this;
  }
  Result<std::unique_ptr<vfio::Device>> connect(GuestMemory& memory,
                                                std::chrono::milliseconds timeout = kPatience) {
    if (thread_.joinable()) thread_.join();
    thread_ = std::thread([this] { run(); });
    return vfio_user::connect({"fake0", path_, timeout}, memory, {});
  }

  /// A question of the server's, sent from inside a script; the answer must be the next message.
  Message ask(protocol::Command command, MessageBuilder payload, const std::vector<int>& fds = {}) {
    protocol::Header header;
    header.id = next_id_++;
    header.command = static_cast<std::uint16_t>(command);
    send(payload.finish(header), fds);
    auto answer = WireClient::receive_from(socket_.get(), reader_);
    EXPECT_TRUE(answer) << answer.error().to_string();
    if (!answer) return {};
    EXPECT_EQ(answer->header.id, header.id);
    EXPECT_TRUE(answer->header.is_reply());
    return std::move(*answer);
  }
  void send(std::vector<std::byte> bytes, const std::vector<int>& fds = {}) {
    SendQueue queue;
    std::vector<UniqueFd> copies;
    for (int fd : fds)
      copies.push_back(UniqueFd(::dup(fd)));
    queue.push(std::move(bytes), std::move(copies));
    while (auto sent = queue.flush(socket_.get())) {
      if (*sent) return;
      if (!wait_fd(socket_.get(), POLLOUT, {}, std::chrono::steady_clock::now() + kPatience)) return;
    }
  }

  static Answer usual(ScriptedServer&, const Message& message) {
    Answer answer;
    switch (message.command()) {
      case protocol::Command::version: {
        protocol::Version version;
        version.text = R"({"capabilities":{"max_msg_fds":2,"max_data_xfer_size":1048576}})";
        answer.payload.add(version);
        break;
      }
      case protocol::Command::device_get_info:
        answer.payload.add(protocol::DeviceInfo{16, 3, 9, 5});
        break;
      case protocol::Command::device_get_region_info: {
        auto head = *protocol::decode<protocol::RegionInfoHead>(message.payload);
        head.argsz = 32;
        head.flags = 3;
        head.size = 0x1000;
        answer.payload.add(head);
        break;
      }
      case protocol::Command::device_get_irq_info: {
        auto info = *protocol::decode<protocol::IrqInfo>(message.payload);
        info.count = 8;
        answer.payload.add(info);
        break;
      }
      case protocol::Command::device_feature:
        answer.error = EINVAL;
        break;
      default:
        break;
    }
    return answer;
  }

 private:
  void run() {
    if (!wait_fd(listener_.get(), POLLIN, {}, std::chrono::steady_clock::now() + kPatience)) return;
    socket_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    reader_ = FrameReader(64 << 20);
    for (;;) {
      auto message = WireClient::receive_from(socket_.get(), reader_);
      if (!message) return;
      const auto script = scripts_.find(message->command());
      auto answer = script == scripts_.end() ? Answer{} : script->second(*this, *message);
      if (answer.silent) continue;
      const auto header = reply_header(message->header, answer.error);
      std::vector<int> fds;
      for (const auto& fd : answer.fds)
        fds.push_back(fd.get());
      send(answer.payload.finish(header), fds);
    }
  }

  const std::string path_;
  UniqueFd listener_;
  UniqueFd socket_;
  FrameReader reader_{64 << 20};
  std::map<protocol::Command, Script> scripts_;
  std::uint16_t next_id_ = 1;
  std::thread thread_;
};

}  // namespace handover::vfio_user
