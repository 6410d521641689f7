#include "migration/multifd_sender.h"

#include <pthread.h>

#include <algorithm>

#include "handover/base/trace.h"
#include "handover/memory/guest_race.h"
#include "handover/memory/zero_page.h"
#include "handover/stream/format.h"

namespace handover {

namespace multifd = stream::multifd;

namespace {

iovec piece(const void* at, std::size_t size) {
  return {const_cast<void*>(at), size};
}

}  // namespace

MultifdSender::MultifdSender(std::vector<std::unique_ptr<Channel>> channels) {
  for (auto& channel : channels) {
    lanes_.push_back(std::make_unique<Lane>());
    lanes_.back()->channel = std::move(channel);
  }
  std::uint8_t number = 0;
  for (auto& lane : lanes_)
    lane->thread = std::thread([this, &lane = *lane, number = number++] { run(lane, number); });
}

MultifdSender::~MultifdSender() {
  shutdown();
  for (auto& lane : lanes_)
    lane->thread.join();
}

void MultifdSender::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    for (auto& lane : lanes_)
      lane->wake.notify_all();
  }
  room_.notify_all();
  for (auto& lane : lanes_)
    lane->channel->shutdown();
}

// Under the lock.
Status MultifdSender::failed_already() const {
  if (failure_) return std::unexpected(*failure_);
  if (stopping_) return fail(Errc::cancelled, "the multifd channels were shut down");
  return {};
}

Status MultifdSender::check() const {
  std::lock_guard lock(mutex_);
  return failure_ ? Status(std::unexpected(*failure_)) : Status{};
}

void MultifdSender::run(Lane& lane, std::uint8_t number) {
  ::pthread_setname_np(::pthread_self(), fmt::format("multifd-{}", number).c_str());
  HANDOVER_TRACE(thread_start, "multifd");
  std::array<std::byte, multifd::kInitialSize> initial;
  encode(multifd::Initial{.channel = number}, initial);
  const auto whole = piece(initial.data(), initial.size());
  auto sent = write(*lane.channel, std::span(&whole, 1));

  std::unique_lock lock(mutex_);
  while (sent) {
    lane.wake.wait(lock, [&] { return stopping_ || !lane.jobs.empty(); });
    if (stopping_) break;
    auto job = std::move(lane.jobs.front());
    lane.jobs.pop_front();
    lane.busy = true;
    room_.notify_all();
    lock.unlock();
    sent = carry_out(*lane.channel, job);
    job = Sync{};  // what it held goes before the lock comes back
    lock.lock();
    lane.busy = false;
    if (lane.jobs.empty()) room_.notify_all();
  }
  if (!sent && !failure_ && !stopping_) {
    failure_ = std::move(sent).error().with_context(fmt::format("multifd channel {}", number));
    room_.notify_all();
  }
  HANDOVER_TRACE(thread_end, "multifd");
}

Status MultifdSender::write(Channel& channel, std::span<const iovec> pieces) {
  HANDOVER_TRY(channel.write_all(pieces));
  std::uint64_t size = 0;
  for (const auto& each : pieces)
    size += each.iov_len;
  bytes_.fetch_add(size, std::memory_order_relaxed);
  return {};
}

Status MultifdSender::carry_out(Channel& channel, Job& job) {
  if (auto* pages = std::get_if<std::unique_ptr<Pages>>(&job)) return send_pages(channel, **pages);
  if (auto* state = std::get_if<DeviceState>(&job)) return send_state(channel, *state);
  return send_sync(channel);
}

Status MultifdSender::send_pages(Channel& channel, const Pages& pages) {
  multifd::RamPacket packet;
  packet.number = packets_.fetch_add(1, std::memory_order_relaxed);
  packet.block = pages.block->name();
  std::array<std::uint64_t, multifd::kPagesPerPacket> zeros;
  std::array<iovec, multifd::kPagesPerPacket + 1> pieces;
  std::size_t count = 1;
  const GuestRace race;
  for (const auto index : std::span(pages.indexes).first(pages.count)) {
    const auto bytes = pages.block->page(index);
    if (is_zero_page(bytes.data())) {
      zeros[packet.zero++] = index * kPageSize;
      continue;
    }
    packet.offsets[packet.normal++] = index * kPageSize;
    auto& last = pieces[count - 1];
    if (count > 1 && static_cast<std::byte*>(last.iov_base) + last.iov_len == bytes.data())
      last.iov_len += kPageSize;
    else
      pieces[count++] = piece(bytes.data(), kPageSize);
  }
  std::copy_n(zeros.begin(), packet.zero, packet.offsets.begin() + packet.normal);
  for (const auto index : std::span(pages.indexes).last(pages.zero))
    packet.offsets[packet.normal + packet.zero++] = index * kPageSize;

  std::array<std::byte, multifd::kRamHeaderSize> header;
  encode(packet, header);
  pieces[0] = piece(header.data(), header.size());
  HANDOVER_TRY(write(channel, std::span(pieces).first(count)));
  ram_bytes_.fetch_add(header.size() + packet.normal * kPageSize, std::memory_order_relaxed);
  normal_pages_.fetch_add(packet.normal, std::memory_order_relaxed);
  zero_pages_.fetch_add(packet.zero, std::memory_order_relaxed);
  return {};
}

Status MultifdSender::send_sync(Channel& channel) {
  std::array<std::byte, multifd::kRamHeaderSize> header;
  encode(multifd::RamPacket{.sync = true, .number = packets_.fetch_add(1, std::memory_order_relaxed)},
         header);
  const auto whole = piece(header.data(), header.size());
  ram_bytes_.fetch_add(header.size(), std::memory_order_relaxed);
  return write(channel, std::span(&whole, 1));
}

Status MultifdSender::send_state(Channel& channel, DeviceState& state) {
  std::array<std::byte, multifd::kDeviceHeaderSize> header;
  encode(multifd::DevicePacket{state.section, state.instance, static_cast<std::uint32_t>(state.packet.size)},
         header);
  const iovec pieces[] = {piece(header.data(), header.size()),
                          piece(state.packet.bytes.get(), state.packet.size)};
  return write(channel, pieces);
}

Status MultifdSender::enqueue(Job job, const CancelToken& cancel) {
  std::unique_lock lock(mutex_);
  Lane* chosen = nullptr;
  const auto find_room = [&] {
    if (failure_ || stopping_) return true;
    std::size_t least = kJobsPerLane;
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      auto& lane = *lanes_[(next_ + i) % lanes_.size()];
      const std::size_t load = lane.jobs.size() + (lane.busy ? 1 : 0);
      if (lane.jobs.size() < kJobsPerLane && load < least + 1 && (!chosen || load < least)) {
        chosen = &lane;
        least = load;
      }
    }
    return chosen != nullptr;
  };
  room_.wait(lock, cancel.stop(), find_room);
  HANDOVER_TRY(failed_already());
  HANDOVER_TRY(cancel.check());
  next_ = (next_ + 1) % lanes_.size();
  chosen->jobs.push_back(std::move(job));
  chosen->wake.notify_one();
  return {};
}

Status MultifdSender::flush_pages(const CancelToken& cancel) {
  if (!gathered_ || gathered_->empty()) return {};
  return enqueue(std::move(gathered_), cancel);
}

Status MultifdSender::send(const RamBlock& block, PageRun pages, Content content, const CancelToken& cancel) {
  for (auto page = pages.first; page < pages.first + pages.count; ++page) {
    if (gathered_ && (gathered_->full() || gathered_->block != &block)) HANDOVER_TRY(flush_pages(cancel));
    if (!gathered_) {
      gathered_ = std::make_unique<Pages>();
      gathered_->block = &block;
    }
    if (content == Content::zero)
      gathered_->indexes[gathered_->indexes.size() - ++gathered_->zero] = page;
    else
      gathered_->indexes[gathered_->count++] = page;
  }
  return {};
}

Status MultifdSender::begin(StreamWriter& out) {
  return barrier(out);
}

// One SYNC on every channel for each FLUSH word: behind everything that was handed over before.
Status MultifdSender::barrier(StreamWriter& out) {
  HANDOVER_TRY(flush_pages({}));
  {
    std::lock_guard lock(mutex_);
    HANDOVER_TRY(failed_already());
    for (auto& lane : lanes_) {
      lane->jobs.emplace_back(Sync{});
      lane->wake.notify_one();
    }
  }
  out.be64(stream::ram::kMultifdFlush);
  // The channels wait at the other end until this has been read there.
  return out.flush();
}

Status MultifdSender::finish(StreamWriter& out) {
  return barrier(out);
}

Status MultifdSender::drain(const CancelToken& cancel) {
  HANDOVER_TRY(flush_pages(cancel));
  std::unique_lock lock(mutex_);
  const auto idle = [](const auto& lane) { return lane->jobs.empty() && !lane->busy; };
  room_.wait(lock, cancel.stop(), [&] { return failure_ || stopping_ || std::ranges::all_of(lanes_, idle); });
  HANDOVER_TRY(failed_already());
  return cancel.check();
}

Status MultifdSender::send_packet(const std::string& section, std::uint32_t instance, Packet packet,
                                  const CancelToken& cancel) {
  return enqueue(DeviceState{section, instance, std::move(packet)}, cancel);
}

ItemCounters MultifdSender::counters() const {
  return {.bytes = ram_bytes_.load(std::memory_order_relaxed),
          .normal_pages = normal_pages_.load(std::memory_order_relaxed),
          .zero_pages = zero_pages_.load(std::memory_order_relaxed)};
}

std::uint64_t MultifdSender::bytes() const {
  return bytes_.load(std::memory_order_relaxed);
}

}  // namespace handover
