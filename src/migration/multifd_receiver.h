#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/channel/channel.h"
#include "handover/memory/ram_migration.h"
#include "handover/stream/multifd.h"

namespace handover {

/// The destination's multifd channels: a thread each that loads what comes.
///
/// Pages go straight into guest memory, packets of device state to their item.  A channel that has come to a
/// synchronisation point waits there until the load thread has passed it too (barrier()).  The first failure
/// stops all of them and is told once.
class MultifdReceiver {
 public:
  struct Sinks {
    RamMigration* ram = nullptr;  ///< null: pages are refused
    /// The item that the name stands for; null: there is none that takes packets.
    std::function<Migratable*(const std::string& section, std::uint32_t instance)> find;
    /// A channel has failed.  Any thread.
    std::function<void(const Error&)> failed;
  };

  /// `channels` by number; what their readers have buffered is loaded too.
  struct Lane {
    std::unique_ptr<Channel> channel;
    std::unique_ptr<StreamReader> in;
  };
  MultifdReceiver(std::vector<Lane> channels, Sinks sinks);
  /// Shuts the channels down and joins their threads.
  ~MultifdReceiver();

  /// Load thread: waits until every channel is at its next synchronisation point, then lets all go on.
  Status barrier(const CancelToken& cancel);
  /// Load thread: every item can take packets now.  A machine without RAM has no synchronisation points, so
  /// its packets wait for this.
  void items_ready();
  void shutdown();

 private:
  void run(Lane& lane, std::size_t number);
  Status load(StreamReader& in);
  Status load_state(const stream::multifd::DevicePacket& packet, StreamReader& in);
  Status wait_at_sync();
  Status wait_for_items();

  const Sinks sinks_;
  std::vector<Lane> lanes_;
  std::mutex mutex_;  // a leaf
  std::condition_variable_any changed_;
  std::size_t arrived_ = 0;  // channels that wait at the present synchronisation point
  std::size_t ended_ = 0;
  std::uint64_t passed_ = 0;  // synchronisation points
  std::optional<Error> failure_;
  bool stopping_ = false;
  bool ready_ = false;  // items_ready() was called
  std::vector<std::thread> threads_;
};

}  // namespace handover
