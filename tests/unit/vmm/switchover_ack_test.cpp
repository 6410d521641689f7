#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/vmm/served_vm.h"

namespace handover::vmm {
namespace {

/// An accelerator that finds new initial data twice, each time after the last was read, and may not know how
/// large its state is.
class RestlessDevice final : public vfio_user::DeviceModel {
 public:
  RestlessDevice(vfio_user::DeviceModel& inner, int renewals, bool knows_size)
      : inner_(inner), knows_size_(knows_size), renewals_(renewals) {}

  const vfio_user::DeviceSpec& spec() const override { return inner_.spec(); }
  void attach(vfio_user::DeviceBus& bus) override { inner_.attach(bus); }
  Status region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) override {
    return inner_.region_read(index, offset, to);
  }
  Status region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) override {
    return inner_.region_write(index, offset, from);
  }
  void reset(Completion done) override { inner_.reset(std::move(done)); }
  void transition(vfio::DeviceState from, vfio::DeviceState to, Completion done) override {
    inner_.transition(from, to, std::move(done));
  }
  Result<std::size_t> migration_read(std::span<std::byte> to) override {
    pretended_ = 0;
    return inner_.migration_read(to);
  }
  Status migration_write(std::span<const std::byte> from) override { return inner_.migration_write(from); }
  std::optional<vfio::PrecopyInfo> precopy_info() const override {
    auto info = inner_.precopy_info();
    if (!info) return info;
    // Asked with nothing initial left: something new has just come up.
    if (info->initial_bytes == 0 && pretended_ == 0 && renewals_ > 0) {
      --renewals_;
      pretended_ = 100;
      info->reinit = true;
    }
    info->initial_bytes += pretended_;
    return info;
  }
  std::optional<std::uint64_t> stop_copy_size() const override {
    return knows_size_ ? inner_.stop_copy_size() : std::nullopt;
  }
  void dma_unmapping(Iova start, std::uint64_t size, Completion done) override {
    inner_.dma_unmapping(start, size, std::move(done));
  }
  void disconnected(Completion done) override { inner_.disconnected(std::move(done)); }

 private:
  vfio_user::DeviceModel& inner_;
  const bool knows_size_;
  mutable int renewals_;
  mutable std::uint64_t pretended_ = 0;
};

/// A machine with one such device.
struct RestlessMachine {
  RestlessMachine(bool incoming, int renewals, bool knows_size)
      : inner(accelerator::Accelerator::create({.name = "restless", .memory_size = 2 * MiB}).value()),
        device(*inner, renewals, knows_size) {
    loop.start_thread();
    server = vfio_user::Server::create(loop, device, {.socket_path = folder.file("device")}).value();
    vm = Vm::create({.memory = 32 * MiB,
                     .devices = {{.id = "restless0", .socket = folder.file("device")}},
                     .guest = {.working_set = 4 * MiB, .dirty_rate = 4 * MiB, .job_rate = 500, .seed = 3},
                     .incoming = incoming})
             .value();
  }
  test::TemporaryFolder folder;
  std::unique_ptr<accelerator::Accelerator> inner;
  RestlessDevice device;
  EventLoop loop{"device"};
  std::unique_ptr<vfio_user::Server> server;
  std::unique_ptr<Vm> vm;
};

Statistics move(int renewals, bool knows_size, bool acknowledged) {
  RestlessMachine source(false, renewals, knows_size);
  RestlessMachine destination(true, 0, knows_size);
  EXPECT_TRUE(source.vm->loop().call([&] { return source.vm->machine().start(); }));
  test::ChannelPair channels;
  Destination incoming(destination.vm->machine(), {});
  incoming.start(std::move(channels.second));
  Source::Options options;
  options.capabilities.switchover_ack = acknowledged;
  options.parameters.downtime_limit_ms = 60'000;
  Source outgoing(source.vm->machine(), &source.vm->ram(), options);
  outgoing.start(std::move(channels.first));
  EXPECT_EQ(outgoing.wait(), MigrationStatus::completed) << outgoing.statistics().error;
  EXPECT_EQ(incoming.wait(), MigrationStatus::completed) << incoming.error();
  const auto verified = destination.vm->verify(std::chrono::minutes(3));
  EXPECT_TRUE(verified) << verified.error().to_string();
  return outgoing.statistics();
}

const ItemStatistics& device_of(const Statistics& figures) {
  return *std::ranges::find(figures.items, "restless0", &ItemStatistics::name);
}

TEST(SwitchoverAck, RenewedInitialDataIsAcknowledgedAgain) {
  const auto figures = move(2, true, true);
  // Once at first and once a renewal; two renewals before the end of one turn make one.
  EXPECT_THAT(device_of(figures).acks_wanted, testing::AnyOf(2u, 3u));
  EXPECT_EQ(figures.switchover_acks, device_of(figures).acks_wanted);
}

TEST(SwitchoverAck, WithoutTheCapabilityNobodyAsks) {
  const auto figures = move(2, true, false);
  EXPECT_EQ(device_of(figures).acks_wanted, 0u);
  EXPECT_EQ(figures.switchover_acks, 0u);
}

TEST(SwitchoverAck, ADeviceThatCannotTellItsSizeMigratesAndTheReportSaysSo) {
  const auto figures = move(0, false, true);
  EXPECT_TRUE(device_of(figures).size_unknown);
  EXPECT_FALSE(device_of(move(0, true, true)).size_unknown);
}

}  // namespace
}  // namespace handover::vmm
