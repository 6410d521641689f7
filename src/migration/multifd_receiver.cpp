#include "migration/multifd_receiver.h"

#include <pthread.h>

#include "handover/base/trace.h"

namespace handover {

namespace multifd = stream::multifd;

MultifdReceiver::MultifdReceiver(std::vector<Lane> channels, Sinks sinks)
    : sinks_(std::move(sinks)), lanes_(std::move(channels)) {
  for (std::size_t number = 0; number < lanes_.size(); ++number)
    threads_.emplace_back([this, number] { run(lanes_[number], number); });
}

MultifdReceiver::~MultifdReceiver() {
  shutdown();
  for (auto& thread : threads_)
    thread.join();
}

void MultifdReceiver::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (auto& lane : lanes_)
    lane.channel->shutdown();
}

void MultifdReceiver::run(Lane& lane, std::size_t number) {
  ::pthread_setname_np(::pthread_self(), fmt::format("load-{}", number).c_str());
  HANDOVER_TRACE(thread_start, "multifd-load");
  auto loaded = load(*lane.in);
  bool tell = false;
  std::optional<Error> why;
  {
    std::lock_guard lock(mutex_);
    ++ended_;
    if (!loaded && !failure_ && !stopping_) {
      failure_ = std::move(loaded).error().with_context(fmt::format("multifd channel {}", number));
      why = failure_;
      tell = true;
    }
  }
  changed_.notify_all();
  if (tell) sinks_.failed(*why);
  HANDOVER_TRACE(thread_end, "multifd-load");
}

Status MultifdReceiver::load(StreamReader& in) {
  bool synchronised = false;
  for (;;) {
    HANDOVER_ASSIGN(const bool end, in.at_end());
    if (end) return {};
    HANDOVER_ASSIGN(auto packet, multifd::read_packet(in));
    if (const auto* state = std::get_if<multifd::DevicePacket>(&packet)) {
      // The items are ready once the main channel has begun.  RAM's first synchronisation point stands for
      // that; without RAM there is none.
      if (!synchronised && !sinks_.ram) {
        HANDOVER_TRY(wait_for_items());
        synchronised = true;
      }
      if (!synchronised) return fail(Errc::protocol, "device state before the first synchronisation point");
      HANDOVER_TRY(load_state(*state, in));
      continue;
    }
    const auto& pages = std::get<multifd::RamPacket>(packet);
    if (pages.normal + pages.zero > 0) {
      if (!synchronised) return fail(Errc::protocol, "pages before the first synchronisation point");
      if (!sinks_.ram) return fail(Errc::protocol, "pages for a machine without memory of its own");
      HANDOVER_TRY(sinks_.ram->load_pages(pages, in));
    }
    if (pages.sync) {
      HANDOVER_TRY(wait_at_sync());
      synchronised = true;
    }
  }
}

Status MultifdReceiver::load_state(const multifd::DevicePacket& packet, StreamReader& in) {
  auto* item = sinks_.find(packet.section, packet.instance);
  const std::size_t most = item ? item->largest_packet() : 0;
  if (most == 0)
    return fail(Errc::protocol, "a packet for `{}` (instance {}), which takes none", packet.section,
                packet.instance);
  if (packet.size > most)
    return fail(Errc::limit, "a packet of {} bytes for {}, which takes up to {}", packet.size,
                item->display_name(), most);
  Packet content{std::make_unique_for_overwrite<std::byte[]>(packet.size), packet.size};
  HANDOVER_TRY(in.bytes({content.bytes.get(), content.size}));
  return item->load_packet(std::move(content));
}

void MultifdReceiver::items_ready() {
  {
    std::lock_guard lock(mutex_);
    ready_ = true;
  }
  changed_.notify_all();
}

Status MultifdReceiver::wait_for_items() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ready_ || failure_ || stopping_; });
  return ready_ ? Status{} : fail(Errc::cancelled, "the load was given up");
}

Status MultifdReceiver::wait_at_sync() {
  std::unique_lock lock(mutex_);
  const auto here = passed_;
  ++arrived_;
  changed_.notify_all();
  changed_.wait(lock, [&] { return passed_ > here || failure_ || stopping_; });
  return passed_ > here ? Status{} : fail(Errc::cancelled, "the load was given up");
}

Status MultifdReceiver::barrier(const CancelToken& cancel) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, cancel.stop(),
                [&] { return arrived_ == lanes_.size() || ended_ > 0 || failure_ || stopping_; });
  HANDOVER_TRY(cancel.check());
  if (failure_) return std::unexpected(*failure_);
  if (arrived_ < lanes_.size())
    return fail(Errc::closed, "a multifd channel ended before the synchronisation point of the others");
  arrived_ = 0;
  ++passed_;
  changed_.notify_all();
  return {};
}

}  // namespace handover
