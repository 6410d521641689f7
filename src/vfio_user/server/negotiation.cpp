#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "handover/base/log.h"
#include "vfio_user/server/session.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

/// What a client may pass with one message: QEMU takes 16 at the most, cloud-hypervisor sends up to 16.
constexpr std::uint64_t kServerMaxFds = 16;

Result<std::pair<Version, Capabilities>> read_request(const Message& message) {
  if (!message.header.is_command() || message.command() != Command::version)
    return refuse(EINVAL, "the first message is not VERSION");
  if (!message.fds.empty()) return refuse(EINVAL, "VERSION with descriptors");
  HANDOVER_ASSIGN(auto version, Version::decode(message.payload));
  if (version.major != kMajor) return refuse(EINVAL, "major version {}", version.major);
  HANDOVER_ASSIGN(auto capabilities, parse_capabilities(version.text));
  return std::pair(std::move(version), capabilities);
}

}  // namespace

// Makes the twin channel of our end; returns the client's.
Result<UniqueFd> Session::open_twin() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
    return fail_errno(errno, "cannot make a twin socket");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  twin_ = std::make_shared<Channel>(host_.loop.context(), std::move(ours),
                                    MessageDma::kMaxMessage + kMessageSlack);
  const std::weak_ptr<Session> weak = shared_from_this();
  twin_->start({
      .message =
          [weak](Message message) {
            auto self = weak.lock();
            if (self && !self->closed_ && message.header.is_reply()) self->host_.messages->answer(message);
          },
      .ended =
          [weak](const Error& error) {
            if (auto self = weak.lock()) self->close("twin socket: " + error.to_string());
          },
      .drained = nullptr,
  });
  return theirs;
}

void Session::negotiate(Message& message) {
  auto request = read_request(message);
  if (!request) return refuse_and_close(message.header, request.error());
  const auto& [version, client] = *request;

  if (host_.options.migration == MigrationInterface::v1 && host_.spec.migration_features) {
    auto region = V1Region::create(host_);
    if (!region) return refuse_and_close(message.header, region.error());
    v1_ = std::move(*region);
  }
  Reply answer;
  Capabilities ours;
  ours.max_msg_fds = kServerMaxFds;
  ours.max_data_xfer_size = host_.options.max_data_xfer_size;
  ours.max_dma_maps = host_.options.max_dma_maps;
  ours.write_multiple = true;
  if (host_.spec.migration_features) ours.migration = Capabilities::Migration{kPageSize, std::nullopt};
  ours.handover = client.handover;
  if (client.twin_socket && client.twin_socket->supported && client.max_msg_fds > 0) {
    auto theirs = open_twin();
    if (!theirs) return refuse_and_close(message.header, theirs.error());
    answer.fds.push_back(std::move(*theirs));
    ours.twin_socket = Capabilities::TwinSocket{true, 0};
  }
  Version reply_version;
  reply_version.minor = std::min(version.minor, kMinor);
  reply_version.text = to_json(ours);
  answer.payload.add(reply_version);
  negotiated_ = true;
  reply(message.header, std::move(answer));
  host_.messages->connected(
      [weak = weak_from_this()](std::vector<std::byte> bytes) {
        auto self = weak.lock();
        if (!self || self->closed_) return;
        self->dma_channel().send(std::move(bytes));
        self->update_reading();
      },
      client.max_data_xfer_size);
  log::info("device `{}`: client speaks version {}.{}{}", host_.spec.name, version.major, version.minor,
            twin_ ? ", with twin socket" : "");
}

}  // namespace handover::vfio_user
