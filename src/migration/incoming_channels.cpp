#include "migration/incoming_channels.h"

#include "handover/base/byte_order.h"
#include "handover/stream/multifd.h"

namespace handover {

namespace multifd = stream::multifd;

namespace {

constexpr std::size_t kMostMultifd = 255;
/// For connections that were made before.
constexpr std::chrono::seconds kPatience{30};

/// Shuts the channel down if the token is cancelled meanwhile: a peer that says nothing must not hold us.
class ShutOnCancel {
 public:
  ShutOnCancel(const CancelToken& cancel, Channel& channel)
      : callback_(cancel.stop(), [&channel] { channel.shutdown(); }) {}

 private:
  std::stop_callback<std::function<void()>> callback_;
};

}  // namespace

Result<MultifdReceiver::Lane> IncomingChannels::accept_one(Deadline deadline) {
  MultifdReceiver::Lane lane;
  HANDOVER_ASSIGN(lane.channel, listener_->accept(cancel_, deadline));
  lane.in = std::make_unique<StreamReader>(*lane.channel);
  return lane;
}

Result<MultifdReceiver::Lane> IncomingChannels::accept_main() {
  for (;;) {
    HANDOVER_ASSIGN(auto lane, accept_one({}));
    const ShutOnCancel guard(cancel_, *lane.channel);
    HANDOVER_ASSIGN(const auto first, lane.in->peek(sizeof multifd::kMagic));
    // A file or a command has nothing to compare; whatever is wrong with it is found by who reads it.
    if (first.size() < sizeof multifd::kMagic || load_be<std::uint32_t>(first.data()) != multifd::kMagic)
      return lane;
    if (early_.size() == kMostMultifd)
      return fail(Errc::protocol, "{} multifd channels and no main one", early_.size() + 1);
    early_.push_back(std::move(lane));
  }
}

Result<std::vector<MultifdReceiver::Lane>> IncomingChannels::accept_multifd(std::size_t count) {
  if (count > kMostMultifd)
    return fail(Errc::protocol, "{} multifd channels; {} is the most", count, kMostMultifd);
  std::vector<MultifdReceiver::Lane> lanes(count);
  for (std::size_t i = 0; i < count; ++i) {
    MultifdReceiver::Lane lane;
    if (!early_.empty()) {
      lane = std::move(early_.back());
      early_.pop_back();
    } else {
      HANDOVER_ASSIGN_CONTEXT(lane, accept_one(std::chrono::steady_clock::now() + kPatience),
                              "waiting for multifd channel {} of {}", i + 1, count);
    }
    const ShutOnCancel guard(cancel_, *lane.channel);
    HANDOVER_ASSIGN_CONTEXT(const auto initial, multifd::read_initial(*lane.in), "{}", lane.channel->name());
    if (initial.channel >= count || lanes[initial.channel].channel)
      return fail(Errc::protocol, "multifd channel {} of {} comes twice or is too many", initial.channel,
                  count);
    lanes[initial.channel] = std::move(lane);
  }
  return lanes;
}

}  // namespace handover
