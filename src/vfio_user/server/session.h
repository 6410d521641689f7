#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "vfio_user/server/channel.h"
#include "vfio_user/server/host.h"
#include "vfio_user/server/refusal.h"
#include "vfio_user/server/v1_region.h"

namespace handover::vfio_user {

/// What goes back for a command that worked.
struct Reply {
  MessageBuilder payload;
  std::vector<UniqueFd> fds;
  Payload data;  ///< goes on after the payload
};
/// A reply, or nothing yet: complete() will be called.
using Outcome = Result<std::optional<Reply>>;

/// One client of a served device, from VERSION to the end of its connection.
///
/// Commands are carried out in order, one at a time.  While one is under way that the device model finishes
/// later, further commands wait in a bounded queue; answers to the server's own DMA messages do not wait.
/// Lives on the server's loop.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Host& host, UniqueFd socket);

  /// `ended` is called once: the connection is closed and no operation of the device is under way.
  void start(std::function<void()> ended);
  void close(const std::string& reason);

 private:
  friend struct FeatureTable;

  /// What a client may leave unread, and how many commands may wait, before the server stops reading.
  static constexpr std::size_t kMaxUnsent = 4 * MiB;
  static constexpr std::size_t kMaxWaiting = 1024;
  static constexpr std::size_t kMaxWaitingBytes = 8 * MiB;
  /// The largest dirty bitmap in one reply: 512 GiB in pages of 4 KiB.
  static constexpr std::uint64_t kMaxBitmap = 16 * MiB;

  void on_message(Message message);
  void on_ended(const Error& error);
  void execute(Message message);
  Outcome dispatch(Message& message);
  void reply(const protocol::Header& command, Result<Reply> result);
  void complete(Result<Reply> result);
  void refuse_and_close(const protocol::Header& command, const Error& error);
  void run_waiting();
  void update_reading();
  Channel& dma_channel() { return twin_ ? *twin_ : *main_; }

  // negotiation.cpp
  void negotiate(Message& message);
  Result<UniqueFd> open_twin();

  // commands_device.cpp
  Outcome get_info(const Message& message);
  Outcome get_region_info(const Message& message);
  Outcome get_region_io_fds(const Message& message);
  Outcome get_irq_info(const Message& message);
  Outcome region_read(const Message& message);
  Outcome region_write(const Message& message);
  Outcome region_write_multi(const Message& message);
  Outcome device_reset();
  /// Null: no such index.
  const RegionSpec* find_region(std::uint32_t index) const;
  Status check_access(std::uint32_t region, std::uint64_t offset, std::uint64_t count,
                      std::uint32_t needs) const;
  Status write_region(std::uint32_t region, std::uint64_t offset, std::span<const std::byte> data);
  Outcome write_device_state(const protocol::RegionAccess& access);

  // commands_dma.cpp
  Outcome dma_map(Message& message);
  Outcome dma_unmap(const Message& message);
  Reply unmapped(const protocol::DmaUnmap& request, const std::vector<DmaTable::Range>& ranges);

  // features.cpp
  Outcome device_feature(const Message& message);
  Outcome get_migration(const protocol::Feature& request);
  Outcome get_device_state(const protocol::Feature& request);
  Outcome set_device_state(const protocol::Feature& request);
  Outcome start_logging(const protocol::Feature& request);
  Outcome stop_logging(const protocol::Feature& request);
  Outcome report_logging(const protocol::Feature& request);
  Outcome get_data_size(const protocol::Feature& request);
  Outcome get_precopy_info(const protocol::Feature& request);
  Outcome mig_data_read(const Message& message);
  Outcome mig_data_write(const Message& message);

  Host& host_;
  std::shared_ptr<Channel> main_;
  std::shared_ptr<Channel> twin_;
  std::function<void()> ended_;
  std::unique_ptr<V1Region> v1_;  // if clients migrate the device by protocol v1
  bool negotiated_ = false;
  bool closed_ = false;
  bool busy_ = false;  // a command is under way
  protocol::Header current_;
  std::deque<Message> waiting_;
  std::size_t waiting_bytes_ = 0;
};

}  // namespace handover::vfio_user
