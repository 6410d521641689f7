#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "handover/base/cancel.h"
#include "vfio/packet_queue.h"

namespace handover::vfio {

/// Loads the packets of one device on a thread of its own (mission D1): from the switchover on, in turn, data
/// into the device and last its configuration.  Nothing is locked while the device works (D3).
class PacketLoader {
 public:
  struct Steps {
    std::string device;  ///< its id, for messages
    std::function<Status(std::span<const std::byte>)> data;
    std::function<Status(std::span<const std::byte>)> config;
    /// A packet has been loaded.
    std::function<void(const Packet&)> loaded;
    /// The thread has failed and has ended.
    std::function<void(const Error&)> failed;
  };

  PacketLoader(std::uint64_t max_queued, CancelToken cancel, Steps steps);
  /// Asks the thread to stop, wakes it and waits for it (D5).
  ~PacketLoader();

  /// Any thread.
  Status put(Packet packet) { return queue_.put(std::move(packet)); }
  bool used() const { return queue_.used(); }
  std::uint64_t peak() const { return queue_.peak(); }

  /// The source has stopped; starts the thread.
  void start();
  /// Waits until the configuration is loaded.
  Status wait();
  /// Nothing comes in packets after all.
  void stop();

 private:
  void run();
  Status load_all();

  CancelToken cancel_;
  const Steps steps_;
  PacketQueue queue_;
  Status result_;
  bool complete_ = false;  // the thread's, until it is joined
  std::thread thread_;
};

}  // namespace handover::vfio
