#include <random>

#include "unit/vfio_user/recorded_trace.h"
#include "unit/vfio_user/served_toy.h"

namespace handover::vfio_user {
namespace {

using namespace protocol;

class MutatedMessages : public ServedToy {
 protected:
  void SetUp() override { serve(); }

  // Commands that the recordings have, and some that they lack.
  static std::vector<std::vector<std::byte>> seeds() {
    std::vector<std::vector<std::byte>> found;
    for (const auto& vector : wire_vectors()) {
      NativeReader in(vector.bytes);
      if (const auto header = decode<Header>(in); header && !header->is_reply() && vector.bytes.size() < 4096)
        found.push_back(vector.bytes);
    }
    const auto add = [&](Command command, MessageBuilder payload) {
      found.push_back(payload.finish({1, static_cast<std::uint16_t>(command), 0, 0, 0}));
    };
    for (std::uint32_t state = 1; state < 8; ++state)
      add(Command::device_feature, MessageBuilder()
                                       .add(FeatureHead{16, kFeatureDeviceState | kFeatureSet})
                                       .add(DeviceStateData{state, 0}));
    add(Command::device_reset, {});
    add(Command::region_write_multi,
        MessageBuilder().add(RegionWriteMulti{{{{0x100, 0, 8}, {}}, {{0x108, 0, 4}, {}}}}));
    add(Command::dma_map, MessageBuilder().add(DmaMap{32, 3, 0, 0x100000, 0x10000}));
    add(Command::device_feature, MessageBuilder()
                                     .add(FeatureHead{0x1000, kFeatureDmaLoggingReport | kFeatureGet})
                                     .add(DmaLoggingReportHead{0, 1 << 20, 4096}));
    DmaUnmap unmap;
    unmap.head = {1000, kDmaUnmapGetDirtyBitmap, 0x100000, 0x10000};
    unmap.bitmap_shape = DirtyBitmapShape{4096, 8};
    add(Command::dma_unmap, MessageBuilder().add(unmap));
    add(Command::mig_data_read, MessageBuilder().add(MigDataHead{1032, 1024}));
    add(Command::mig_data_write, MessageBuilder().add(MigDataHead{24, 16}).data(std::vector<std::byte>(16)));
    return found;
  }
};

TEST_F(MutatedMessages, TenThousandOfThemLeaveAServerThatWorks) {
  const auto seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const auto pick = [&](std::size_t below) {
    return std::uniform_int_distribution<std::size_t>(0, below - 1)(random);
  };
  const auto sources = seeds();
  const auto eventfd = make_eventfd();
  const auto memory = make_memfd(1 << 20);
  const auto before = open_fds();
  std::optional<WireClient> wire;
  FrameReader replies(64 << 20);
  int connections = 0;
  for (int sent = 0; sent < 10000; ++sent) {
    if (!wire) {
      wire.emplace(path_);
      ++connections;
      if (pick(10) > 0) wire->negotiate();
    }
    auto bytes = sources[pick(sources.size())];
    for (auto changes = pick(4); changes > 0; --changes) {
      switch (pick(4)) {
        case 0:
          bytes[pick(bytes.size())] ^= static_cast<std::byte>(1u << pick(8));
          break;
        case 1:
          bytes[pick(bytes.size())] = static_cast<std::byte>(pick(256));
          break;
        case 2:
          if (bytes.size() >= 24)
            store_le<std::uint64_t>(bytes.data() + 16 + pick(bytes.size() - 23),
                                    pick(2) ? ~std::uint64_t{0} : 0);
          break;
        case 3:
          if (bytes.size() > 16) bytes.resize(16 + pick(bytes.size() - 16));
          break;
      }
    }
    // Mostly with a size that fits, or nothing beyond the header would ever be looked at.
    if (pick(50) > 0 && bytes.size() >= 8)
      store_le<std::uint32_t>(bytes.data() + 4, static_cast<std::uint32_t>(bytes.size()));
    std::vector<int> fds;
    for (auto count = pick(20) == 0 ? pick(4) : 0; count > 0; --count)
      fds.push_back(pick(2) ? eventfd.get() : memory.get());
    bool open = wire->send_bytes(bytes, fds);
    // Takes what has come, so that the server never has to wait for us.
    while (open) {
      auto message = replies.read(wire->fd());
      if (!message) open = false;
      if (!message || !*message) break;
    }
    if (!open || pick(500) == 0) {
      wire.reset();
      replies = FrameReader(64 << 20);
    }
  }
  wire.reset();
  ASSERT_TRUE(idle()) << "seed " << seed;
  auto valid = client();
  EXPECT_TRUE(valid.alive()) << "seed " << seed;
  ASSERT_EQ(valid.call_errno(Command::device_reset), 0);
  EXPECT_EQ(valid.set_state(vfio::DeviceState::stop_copy), 0);
  EXPECT_EQ(valid.set_state(vfio::DeviceState::running), 0);
  EXPECT_EQ(valid.map(0, 1 << 20, {memory.get()}), 0) << "nothing of the others is left";
  valid.close();
  ASSERT_TRUE(idle());
  EXPECT_EQ(open_fds(), before) << "seed " << seed;
  std::printf("%d connections\n", connections);
}

}  // namespace
}  // namespace handover::vfio_user
