#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "handover/vfio_user/server.h"
#include "unit/vfio_user/toy_device.h"
#include "vfio_user/transport/frame_reader.h"
#include "vfio_user/transport/send_queue.h"
#include "vfio_user/transport/unix_socket.h"

namespace handover::vfio_user {

/// Far beyond what anything here takes; only a hang reaches it.
inline constexpr std::chrono::seconds kPatience{120};

template <class Condition>
bool eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline std::size_t open_fds() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

inline UniqueFd make_eventfd() {
  return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}
/// The counter's value, 0 if it was not signalled.
inline std::uint64_t take_events(const UniqueFd& eventfd) {
  std::uint64_t count = 0;
  return ::read(eventfd.get(), &count, sizeof count) == sizeof count ? count : 0;
}

inline std::string test_socket_path(const std::string& name) {
  return "/tmp/handover-test-" + std::to_string(::getpid()) + "-" + name + ".sock";
}

/// A client that says exactly what the test wants it to say, byte by byte if need be.
class WireClient {
 public:
  explicit WireClient(const std::string& path)
      : socket_(std::move(*connect_unix(path, {}, std::nullopt))), reader_(64 << 20) {}

  int fd() const { return socket_.get(); }
  void close() { socket_.reset(); }

  /// Sends raw bytes; false if the server has gone.
  bool send_bytes(std::span<const std::byte> bytes, const std::vector<int>& fds = {}) {
    SendQueue queue;
    std::vector<UniqueFd> copies;
    for (int fd : fds)
      copies.push_back(UniqueFd(::dup(fd)));
    queue.push({bytes.begin(), bytes.end()}, std::move(copies));
    for (;;) {
      const auto sent = queue.flush(socket_.get());
      if (!sent) return false;
      if (*sent) return true;
      if (!wait_fd(socket_.get(), POLLOUT, {}, std::chrono::steady_clock::now() + kPatience)) return false;
    }
  }
  /// Sends a command and returns its id.
  std::uint16_t send(protocol::Command command, MessageBuilder payload = {}, const std::vector<int>& fds = {},
                     std::uint32_t flags = 0) {
    protocol::Header header;
    header.id = next_id_++;
    header.command = static_cast<std::uint16_t>(command);
    header.flags = flags;
    EXPECT_TRUE(send_bytes(payload.finish(header), fds));
    return header.id;
  }
  /// The next message; fails at the end of the stream.
  Result<Message> receive() { return receive_from(socket_.get(), reader_); }
  static Result<Message> receive_from(int socket, FrameReader& reader) {
    for (;;) {
      HANDOVER_ASSIGN(auto message, reader.read(socket));
      if (message) return std::move(*message);
      HANDOVER_TRY(wait_fd(socket, POLLIN, {}, std::chrono::steady_clock::now() + kPatience));
    }
  }
  /// Sends a command and returns its reply, which must be the next message.
  Message call(protocol::Command command, MessageBuilder payload = {}, const std::vector<int>& fds = {}) {
    const auto id = send(command, std::move(payload), fds);
    auto reply = receive();
    EXPECT_TRUE(reply) << protocol::to_string(command) << ": " << reply.error().to_string();
    if (!reply) return {};
    EXPECT_EQ(reply->header.id, id);
    EXPECT_EQ(reply->command(), command);
    EXPECT_TRUE(reply->header.is_reply());
    return std::move(*reply);
  }
  /// The errno of the reply, 0 for success.
  int call_errno(protocol::Command command, MessageBuilder payload = {}, const std::vector<int>& fds = {}) {
    const auto reply = call(command, std::move(payload), fds);
    return reply.header.failed() ? static_cast<int>(reply.header.error) : 0;
  }

  Message negotiate(
      const std::string& json = R"({"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576}})") {
    protocol::Version version;
    version.minor = 2;
    version.text = json;
    return call(protocol::Command::version, MessageBuilder().add(version));
  }

  // Shorthands for what many tests need.
  int map(std::uint64_t address, std::uint64_t size, const std::vector<int>& fds = {},
          std::uint64_t offset = 0, std::uint32_t flags = 3, std::uint32_t argsz = 32) {
    return call_errno(protocol::Command::dma_map,
                      MessageBuilder().add(protocol::DmaMap{argsz, flags, offset, address, size}), fds);
  }
  int unmap(std::uint64_t address, std::uint64_t size, std::uint32_t flags = 0, std::uint32_t argsz = 24) {
    return call_errno(protocol::Command::dma_unmap,
                      MessageBuilder().add(protocol::DmaUnmapHead{argsz, flags, address, size}));
  }
  int set_state(std::uint32_t state) {
    return call_errno(
        protocol::Command::device_feature,
        MessageBuilder()
            .add(protocol::FeatureHead{16, protocol::kFeatureDeviceState | protocol::kFeatureSet})
            .add(protocol::DeviceStateData{state, 0xffffffff}));
  }
  int set_state(vfio::DeviceState state) { return set_state(static_cast<std::uint32_t>(state)); }
  std::uint32_t get_state() {
    const auto reply = call(protocol::Command::device_feature,
                            MessageBuilder().add(protocol::FeatureHead{
                                16, protocol::kFeatureDeviceState | protocol::kFeatureGet}));
    const auto feature = protocol::Feature::decode(reply.payload);
    if (!feature) return 0xdead;
    const auto data = protocol::decode<protocol::DeviceStateData>(feature->data);
    return data ? data->state : 0xdead;
  }
  /// Something valid that works in every state.
  bool alive() {
    return call_errno(protocol::Command::device_get_info, MessageBuilder().add(protocol::DeviceInfo{})) == 0;
  }
  int write_bar0(std::uint64_t offset, std::span<const std::byte> bytes) {
    return call_errno(
        protocol::Command::region_write,
        MessageBuilder()
            .add(protocol::RegionAccessHead{offset, 0, static_cast<std::uint32_t>(bytes.size())})
            .data(bytes));
  }
  std::vector<std::byte> read_region(std::uint32_t region, std::uint64_t offset, std::uint32_t count) {
    const auto reply = call(protocol::Command::region_read,
                            MessageBuilder().add(protocol::RegionAccessHead{offset, region, count}));
    const auto access = protocol::RegionAccess::decode(reply.payload);
    if (!access) return {};
    return {access->data.begin(), access->data.end()};
  }

 private:
  UniqueFd socket_;
  FrameReader reader_;
  std::uint16_t next_id_ = 100;
};

/// A toy device behind a server on an event loop of its own.
class ServedToy : public testing::Test {
 protected:
  void serve(std::uint64_t features = 7, ServerOptions options = {}) {
    path_ = test_socket_path(testing::UnitTest::GetInstance()->current_test_info()->name());
    toy_ = std::make_unique<ToyDevice>(features);
    loop_ = std::make_unique<EventLoop>("server");
    loop_->start_thread();
    options.socket_path = path_;
    auto server = Server::create(*loop_, *toy_, std::move(options));
    ASSERT_TRUE(server) << server.error().to_string();
    server_ = std::move(*server);
  }
  void TearDown() override {
    if (toy_) toy_->release();
    server_.reset();
    loop_.reset();
    toy_.reset();
  }
  WireClient client() {
    WireClient made(path_);
    made.negotiate();
    return made;
  }
  bool idle() {
    return eventually([&] { return !server_->client_connected(); });
  }

  std::string path_;
  std::unique_ptr<ToyDevice> toy_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Server> server_;
};

}  // namespace handover::vfio_user
