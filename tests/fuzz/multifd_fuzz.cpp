// A multifd channel from a hostile source: pages into guest memory, device state into a device's queue.
#include <cstdint>
#include <cstdlib>

#include "handover/base/byte_writer.h"
#include "handover/memory/ram_migration.h"
#include "handover/stream/multifd.h"
#include "support/memory_channel.h"
#include "vfio/packet_queue.h"

namespace {

using namespace handover;

constexpr std::uint64_t kRam = 64 * kPageSize;
constexpr std::uint64_t kMayWait = 64 * KiB;

void load(StreamReader& in, RamMigration& ram, vfio::PacketQueue& queue) {
  for (;;) {
    auto packet = stream::multifd::read_packet(in);
    if (!packet) return;
    if (const auto* pages = std::get_if<stream::multifd::RamPacket>(&*packet)) {
      if (!ram.load_pages(*pages, in)) return;
      continue;
    }
    const auto size = std::get<stream::multifd::DevicePacket>(*packet).size;
    if (size > kMayWait) return;
    Packet content{std::make_unique<std::byte[]>(size), size};
    if (!in.bytes({content.bytes.get(), size}) || !queue.put(std::move(content))) return;
    if (queue.ready()) {
      const auto taken = queue.take({});
      if (!taken || !*taken) std::abort();
      queue.done((*taken)->packet);
    }
    if (queue.peak() > kMayWait) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto memory = GuestMemory::create(kRam).value();
  RamMigration ram(*memory);
  if (!ram.load_setup()) std::abort();
  BeWriter start;
  start.u64(kRam | 0x004);
  start.u8(4);
  start.text("ram0");
  start.u64(kRam);
  start.u64(0x010);
  test::MemoryChannel main(start.take());
  StreamReader list(main);
  if (!ram.load_live(list, ram.version_id())) std::abort();

  const auto bytes = std::as_bytes(std::span(data, size));
  test::MemoryChannel channel({bytes.begin(), bytes.end()});
  StreamReader in(channel);
  if (!stream::multifd::read_initial(in)) return 0;
  vfio::PacketQueue queue(kMayWait);
  load(in, ram, queue);
  ram.cleanup();
  return 0;
}
