#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "handover/channel/channel.h"
#include "handover/memory/page_sink.h"
#include "handover/stream/multifd.h"

namespace handover {

/// The source's multifd channels: a thread and a short queue each.
///
/// The migration thread hands over pages, device threads hand over packets, and whatever channel has room
/// takes them.  The first failure of a channel sticks: every later call returns it.
class MultifdSender final : public PageSink {
 public:
  explicit MultifdSender(std::vector<std::unique_ptr<Channel>> channels);
  /// Shuts the channels down and joins their threads.
  ~MultifdSender() override;

  std::size_t channels() const { return lanes_.size(); }

  // PageSink
  Status begin(StreamWriter& out) override;
  Status send(const RamBlock& block, PageRun pages, Content content, const CancelToken& cancel) override;
  Status barrier(StreamWriter& out) override;
  Status finish(StreamWriter& out) override;
  ItemCounters counters() const override;

  /// A packet of device state.  Any thread; waits for room.
  Status send_packet(const std::string& section, std::uint32_t instance, Packet packet,
                     const CancelToken& cancel);
  /// Waits until everything that was handed over is in the sockets.
  Status drain(const CancelToken& cancel);
  /// Bytes on all channels so far.  Any thread.
  std::uint64_t bytes() const;
  /// The failure of a channel, if there was one.  Any thread.
  Status check() const;
  /// Wakes everybody; nothing can be sent any more.  Any thread.
  void shutdown();

 private:
  /// Pages of one block: candidates may turn out to be zero, the others are known to be.
  struct Pages {
    const RamBlock* block = nullptr;
    std::uint32_t count = 0;
    std::uint32_t zero = 0;  // from the end of `indexes`
    std::array<std::uint64_t, stream::multifd::kPagesPerPacket> indexes;
    bool full() const { return count + zero == indexes.size(); }
    bool empty() const { return count + zero == 0; }
  };
  struct Sync {};
  struct DeviceState {
    std::string section;
    std::uint32_t instance;
    Packet packet;
  };
  using Job = std::variant<std::unique_ptr<Pages>, Sync, DeviceState>;
  /// One channel.  The queue is guarded by the pool's mutex.
  struct Lane {
    std::unique_ptr<Channel> channel;
    std::deque<Job> jobs;
    bool busy = false;
    std::condition_variable wake;
    std::thread thread;
  };
  /// Enough that a channel never waits for the next job, and no more.
  static constexpr std::size_t kJobsPerLane = 2;

  void run(Lane& lane, std::uint8_t number);
  Status carry_out(Channel& channel, Job& job);
  Status send_pages(Channel& channel, const Pages& pages);
  Status send_sync(Channel& channel);
  Status send_state(Channel& channel, DeviceState& state);
  Status write(Channel& channel, std::span<const iovec> pieces);
  /// To the channel that is least busy, when one has room.
  Status enqueue(Job job, const CancelToken& cancel);
  Status flush_pages(const CancelToken& cancel);
  Status failed_already() const;

  std::unique_ptr<Pages> gathered_;  // the migration thread's: not full yet
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> ram_bytes_{0};
  std::atomic<std::uint64_t> normal_pages_{0};
  std::atomic<std::uint64_t> zero_pages_{0};
  std::atomic<std::uint64_t> packets_{0};

  mutable std::mutex mutex_;  // a leaf; nothing is sent under it
  std::condition_variable_any room_;
  std::optional<Error> failure_;
  bool stopping_ = false;
  std::size_t next_ = 0;  // where to look for room first
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace handover
