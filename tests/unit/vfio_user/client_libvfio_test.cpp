#include <atomic>
#include <mutex>

#include "unit/vfio_user/scripted_server.h"

// A server that behaves as libvfio-user's does, quirks included: v2 migration, padded reads, a dirty log that
// reports whole mappings from their first byte and knows nothing of what is gone.
namespace handover::vfio_user {
namespace {

using namespace protocol;
using vfio::DeviceState;
using vfio::StateRead;
using Answer = ScriptedServer::Answer;

class LikeLibvfioUser : public testing::Test {
 protected:
  LikeLibvfioUser()
      : memory_(std::move(*GuestMemory::create(16 * MiB))),
        server_(testing::UnitTest::GetInstance()->current_test_info()->name()) {
    for (std::size_t i = 0; i < state_.size(); ++i)
      state_[i] = static_cast<std::byte>(7 * i);
    server_.on(Command::device_feature, [this](ScriptedServer&, const Message& m) { return feature(m); });
    server_.on(Command::mig_data_read, [this](ScriptedServer&, const Message& m) { return read(m); });
    server_.on(Command::mig_data_write, [this](ScriptedServer&, const Message& m) { return write(m); });
    server_.on(Command::dma_unmap, [this](ScriptedServer&, const Message& m) { return unmap(m); });
    server_.on(Command::device_set_irqs, [this](ScriptedServer&, const Message& m) {
      irqs_.push_back({*decode<SetIrqsHead>(m.payload), m.fds.size()});
      return Answer{};
    });
    server_.on(Command::device_get_info, [this](ScriptedServer& server, const Message& m) {
      // Refused in STOP, as everything but features.
      if (current_ == 1 || current_ == 3) return error(EINVAL);
      return ScriptedServer::usual(server, m);
    });
  }

  static Answer error(int value) {
    Answer answer;
    answer.error = value;
    return answer;
  }

  Answer feature(const Message& message) {
    const auto request = *Feature::decode(message.payload);
    const auto number = request.head.feature();
    Answer answer;
    if (number != 1 && number != 2 && (number < 6 || number > 8)) return error(EINVAL);
    answer.payload.add(request);
    if (request.head.flags & kFeatureProbe) return answer;
    const bool set = request.head.flags & kFeatureSet;
    if (number == 1) answer.payload.add(U64{5});
    if (number == 2 && !set) answer.payload.add(DeviceStateData{current_, 0});
    if (number == 2 && set) {
      const auto wanted = decode<DeviceStateData>(request.data)->state;
      if (wanted == 6 || (wanted == 3 && current_ != 6)) position_ = 0;
      // Everything again in stop-copy.
      if (wanted == 3) position_ = 0;
      current_ = wanted;
    }
    if (number == 6) logging_ = decode<DmaLoggingStartHead>(request.data)->page_size;
    if (number == 7) logging_ = 0;
    if (number == 8) return report(request);
    return answer;
  }

  Answer report(const Feature& request) {
    const auto head = *decode<DmaLoggingReportHead>(request.data);
    if (logging_ != 4096 || head.page_size != 4096) return error(EINVAL);
    const auto start = mapped_.lower_bound(head.iova);
    if (start == mapped_.end() || start->first != head.iova) return error(95);
    if (refuse_report_) return error(EIO);
    Answer answer;
    if (head.length > start->second || empty_report_) return answer;  // success with a bare header
    answer.payload.add(FeatureHead{request.head.argsz, request.head.flags}).add(head);
    std::vector<std::byte> bitmap(bitmap_bytes(head.length, 4096));
    for (auto page : std::exchange(dirty_, {}))
      bitmap[page / 8] |= static_cast<std::byte>(1 << page % 8);
    answer.payload.data(bitmap);
    return answer;
  }

  Answer read(const Message& message) {
    auto head = *decode<MigDataHead>(message.payload);
    const auto asked = head.size;
    largest_transfer_ = std::max(largest_transfer_, asked);
    const auto count = std::min<std::size_t>(asked, state_.size() - position_);
    head.size = static_cast<std::uint32_t>(count);
    head.argsz = head.size + 8;
    Answer answer;
    answer.payload.add(head).data(std::span(state_).subspan(position_, count)).payload().zeros(asked - count);
    position_ += count;
    return answer;
  }

  Answer write(const Message& message) {
    const auto data = *MigData::decode(message.payload);
    if (data.head.argsz != 8 + data.head.size) return error(EINVAL);
    largest_transfer_ = std::max(largest_transfer_, data.head.size);
    received_.insert(received_.end(), data.data.begin(), data.data.end());
    return {};
  }

  Answer unmap(const Message& message) {
    auto request = *DmaUnmap::decode(message.payload);
    const auto mapping = mapped_.find(request.head.address);
    if (mapping == mapped_.end() || mapping->second != request.head.size) return error(ENOENT);
    std::vector<std::byte> bitmap;
    if (request.bitmap_shape) {
      if (!logging_) return error(EINVAL);
      bitmap.resize(request.bitmap_shape->bytes);
      for (auto page : std::exchange(dirty_, {}))
        bitmap[page / 8] |= static_cast<std::byte>(1 << page % 8);
    }
    mapped_.erase(mapping);
    request.bitmap = bitmap;
    Answer answer;
    answer.payload.add(request);
    return answer;
  }

  std::unique_ptr<vfio::Device> connect() {
    server_.on(Command::dma_map, [this](ScriptedServer&, const Message& m) {
      const auto map = *decode<DmaMap>(m.payload);
      mapped_[map.address] = map.size;
      return Answer{};
    });
    auto device = server_.connect(*memory_);
    EXPECT_TRUE(device) << device.error().to_string();
    return device ? std::move(*device) : nullptr;
  }
  Status map(vfio::Device& device, std::uint64_t at, std::uint64_t size) {
    return device.dma_map({Iova{at}, size, 3, memory_->blocks()[0]->fd(), at, nullptr});
  }

  std::unique_ptr<GuestMemory> memory_;
  std::vector<std::byte> state_ = std::vector<std::byte>(150000);
  std::vector<std::byte> received_;
  std::size_t position_ = 0;
  std::uint32_t current_ = 2;
  std::uint32_t largest_transfer_ = 0;
  std::uint64_t logging_ = 0;
  std::map<std::uint64_t, std::uint64_t> mapped_;
  std::vector<std::uint64_t> dirty_;
  std::atomic<bool> refuse_report_{false}, empty_report_{false};
  std::vector<std::pair<SetIrqsHead, std::size_t>> irqs_;
  ScriptedServer server_;  // last: its thread uses the rest
};

TEST_F(LikeLibvfioUser, WholeMigrationInSmallChunksWithPaddedReads) {
  auto device = connect();
  ASSERT_NE(device, nullptr);
  auto* migration = device->migration();
  ASSERT_NE(migration, nullptr);
  EXPECT_EQ(migration->features(), 5u);
  EXPECT_EQ(migration->preferred_chunk(), 32 * KiB);
  EXPECT_FALSE(*migration->precopy_info());
  EXPECT_FALSE(*migration->stop_copy_size());

  std::vector<std::byte> buffer(1 << 20), stream;
  const auto drain = [&] {
    for (;;) {
      const auto read = migration->read(buffer);
      EXPECT_TRUE(read) << read.error().to_string();
      if (!read) return StateRead::Kind::data;
      stream.insert(stream.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(read->bytes));
      if (read->kind != StateRead::Kind::data) return read->kind;
    }
  };
  ASSERT_TRUE(migration->set_state(DeviceState::pre_copy));
  EXPECT_EQ(drain(), StateRead::Kind::nothing_now);
  ASSERT_TRUE(migration->set_state(DeviceState::stop_copy));
  EXPECT_EQ(drain(), StateRead::Kind::end);
  auto expected = state_;
  expected.insert(expected.end(), state_.begin(), state_.end());
  EXPECT_EQ(stream, expected);
  ASSERT_TRUE(migration->set_state(DeviceState::stop));
  ASSERT_TRUE(migration->set_state(DeviceState::resuming));
  ASSERT_TRUE(migration->write(stream));
  ASSERT_TRUE(migration->set_state(DeviceState::running));
  EXPECT_EQ(received_, stream);
  EXPECT_LE(largest_transfer_, 32 * KiB);
}

TEST_F(LikeLibvfioUser, DirtyLogIsAskedForWholeMappingsAndLosesNothing) {
  auto device = connect();
  auto* log = device->dma_log();
  ASSERT_NE(log, nullptr);
  ASSERT_TRUE(map(*device, 0x100000, 0x400000));
  ASSERT_TRUE(log->start(4096, {}));
  EXPECT_EQ(log->page_size(), 4096u);
  dirty_ = {1, 5, 700};
  // From the middle: the server is asked for all of it, and the rest is kept for later.
  const auto middle = log->report({Iova{0x105000}, 0x10000});
  ASSERT_TRUE(middle) << middle.error().to_string();
  EXPECT_EQ(load_le<std::uint64_t>(middle->data()), 1u);
  const auto all = log->report({Iova{0x100000}, 0x400000});
  ASSERT_TRUE(all);
  EXPECT_EQ(load_le<std::uint64_t>(all->data()), 2u);
  EXPECT_EQ((*all)[700 / 8], static_cast<std::byte>(1 << 700 % 8));
  // Where a report is refused, all is written; one that makes no sense is worth nothing.
  refuse_report_ = true;
  const auto refused = log->report({Iova{0x100000}, 0x2000});
  ASSERT_TRUE(refused);
  EXPECT_EQ(load_le<std::uint64_t>(refused->data()), 3u);
  refuse_report_ = false;
  empty_report_ = true;
  const auto empty = log->report({Iova{0x100000}, 0x2000});
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().code(), Errc::protocol);
  empty_report_ = false;
  ASSERT_TRUE(log->stop());
  ASSERT_TRUE(log->start(4096, {}));
  // A mapping that goes takes its last bits along.
  dirty_ = {2};
  ASSERT_TRUE(device->dma_unmap({Iova{0x100000}, 0x400000}));
  const auto gone = log->report({Iova{0x100000}, 0x10000});
  ASSERT_TRUE(gone);
  EXPECT_EQ(load_le<std::uint64_t>(gone->data()), 4u);
}

TEST_F(LikeLibvfioUser, UnmapIsAskedForMappingByMapping) {
  auto device = connect();
  for (std::uint64_t at = 0; at < 0x5000; at += 0x1000)
    ASSERT_TRUE(map(*device, at, 0x1000));
  EXPECT_FALSE(device->dma_unmap({Iova{0x800}, 0x1000})) << "would cut";
  ASSERT_TRUE(device->dma_unmap({Iova{0}, 0x3000}));
  EXPECT_EQ(mapped_.size(), 2u);
  mapped_.clear();
  EXPECT_TRUE(device->dma_unmap({Iova{0x3000}, 0x2000})) << "the server has forgotten them";
  EXPECT_TRUE(map(*device, 0, 0x5000));
}

TEST_F(LikeLibvfioUser, InterruptsAreSplitByWhatTheServerTakesAndRemovedFromTheFront) {
  auto device = connect();
  std::vector<UniqueFd> eventfds;
  std::vector<int> fds;
  for (int i = 0; i < 5; ++i) {
    eventfds.push_back(make_eventfd());
    fds.push_back(eventfds.back().get());
  }
  ASSERT_TRUE(device->set_irq_eventfds(vfio::kIrqMsix, fds));
  ASSERT_EQ(irqs_.size(), 3u) << "two, two and one";
  EXPECT_EQ(irqs_[1].first.start, 2u);
  EXPECT_EQ(irqs_[2].second, 1u);
  irqs_.clear();
  fds[1] = -1;
  ASSERT_TRUE(device->set_irq_eventfds(vfio::kIrqMsix, fds));
  EXPECT_EQ(irqs_.at(0).first.count, 0u) << "all off first";
  EXPECT_EQ(irqs_.size(), 4u) << "then 0, 2-3 and 4";
  irqs_.clear();
  ASSERT_TRUE(device->set_irq_eventfds(vfio::kIrqIntx, {}));
  EXPECT_TRUE(irqs_.empty()) << "nothing was there, so nothing is removed";
}

TEST_F(LikeLibvfioUser, DeviceThatSticksInStopIsRepairedBeforeAnythingElse) {
  current_ = 1;
  const auto device = connect();
  ASSERT_NE(device, nullptr);
  EXPECT_EQ(current_, 2u);
  EXPECT_EQ(device->info().num_regions, 9u);
}

TEST_F(LikeLibvfioUser, NeverMoreThanOneCommandIsUnderWayWithoutATwinSocket) {
  std::atomic<int> crossed{0};
  server_.on(Command::region_read, [&](ScriptedServer& server, const Message& message) {
    // What libvfio-user does inside a register access: the next message must be the answer.
    const auto answer = server.ask(Command::dma_read, MessageBuilder().add(DmaAccessHead{0, 8}));
    if (answer.header.failed()) ++crossed;
    Answer reply;
    reply.payload.add(*decode<RegionAccessHead>(message.payload)).payload().zeros(4);
    return reply;
  });
  auto device = connect();
  ASSERT_TRUE(map(*device, 0, 0x1000));
  std::vector<std::thread> vcpus;
  for (int i = 0; i < 4; ++i)
    vcpus.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        std::byte value[4];
        EXPECT_TRUE(device->region_read(0, 0, value));
      }
    });
  for (auto& vcpu : vcpus)
    vcpu.join();
  EXPECT_EQ(crossed, 0);
}

}  // namespace
}  // namespace handover::vfio_user
