#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "handover/base/log.h"
#include "handover/channel/memory_channel.h"
#include "handover/memory/ram_migration.h"
#include "handover/vfio/dma_dirty_source.h"
#include "handover/vfio/iommu_endpoint.h"
#include "handover/vfio_user/client.h"
#include "handover/vfio_user/server.h"
#include "support/temp_folder.h"
#include "unit/vfio_user/writing_device.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define HANDOVER_TEST_IS_SLOW
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define HANDOVER_TEST_IS_SLOW
#endif
#endif

namespace handover::vfio_user {

#ifdef HANDOVER_TEST_IS_SLOW
inline constexpr int kMoves = 60;
#else
inline constexpr int kMoves = 1000;
#endif

/// Guest memory, a device in a server of its own that writes to it without a pause, and a client.
struct DirtyRig {
  DirtyRig(std::function<WritingDevice::Place(std::mt19937_64&)> target, std::uint64_t seed,
           std::uint64_t ram = MiB, ServerOptions options = {})
      : model(std::move(target), seed), memory(GuestMemory::create(ram).value()) {
    log::set_level(log::Level::error);  // each start with "all pages" is a warning
    loop.start_thread();
    options.socket_path = folder / "device";
    server = Server::create(loop, model, options).value();
    device = connect({.id = "writer", .socket_path = options.socket_path, .timeout = std::chrono::minutes(2)},
                     *memory, cancel.token())
                 .value();
  }

  /// Devices write all the time; so a state is left and entered as a migration does it.
  void go(vfio::DeviceState to) {
    const auto gone = device->migration()->set_state(to);
    ASSERT_TRUE(gone) << gone.error().to_string();
  }

  /// One migration of the memory, with its device's states, at a random pace.  `stop_guest` is called when
  /// the vCPUs stop, `start_guest` after it is over.
  void move(
      DirtySource& dirt, std::mt19937_64& random, const std::function<void()>& stop_guest = [] {},
      const std::function<void()>& start_guest = [] {}) {
    using State = vfio::DeviceState;
    MemoryChannel stream("the stream");
    StreamWriter out(stream);
    RamMigration ram(*memory);
    ProcessWrites process(*memory);
    ram.add_dirty_source(process);
    ram.add_dirty_source(dirt);
    int sections = 1;
    const auto iterate = [&] {
      const auto sent = ram.save_iterate(out, {.bytes = random() % memory->size(), .cancel = {}});
      ASSERT_TRUE(sent) << sent.error().to_string();
      ASSERT_TRUE(out.flush());
      ++sections;
    };
    const auto sync = [&] {
      const auto left = ram.pending(true);
      ASSERT_TRUE(left) << left.error().to_string();
    };

    const auto begun = ram.save_setup(out);
    ASSERT_TRUE(begun) << begun.error().to_string();
    const bool pre_copy = random() % 4 != 0;
    if (pre_copy) go(State::pre_copy);
    for (auto rounds = random() % 5; rounds > 0; --rounds) {
      iterate();
      if (random() % 2 == 0) sync();
    }
    stop_guest();
    go(pre_copy ? State::pre_copy_p2p : State::running_p2p);
    if (random() % 2 == 0) {
      sync();
      iterate();
    }
    go(State::stop_copy);
    const auto completed = ram.save_complete(out);
    ASSERT_TRUE(completed) << completed.error().to_string();
    ASSERT_TRUE(out.flush());
    ++sections;
    ram.cleanup();

    auto copy = GuestMemory::create(memory->size()).value();
    RamMigration loaded(*copy);
    MemoryChannel arrived("the stream", stream.output());
    StreamReader in(arrived);
    ASSERT_TRUE(loaded.load_setup());
    for (; sections > 0; --sections)
      ASSERT_TRUE(loaded.load_live(in, loaded.version_id()));
    loaded.cleanup();
    for (std::uint64_t page = 0; page < memory->size() / kPageSize; ++page)
      ASSERT_EQ(std::memcmp(memory->blocks()[0]->page(page).data(), copy->blocks()[0]->page(page).data(),
                            kPageSize),
                0)
          << "page " << page << " did not arrive as it was";

    go(State::stop);
    go(State::running);
    start_guest();
  }

  test::TempFolder folder;
  WritingDevice model;
  EventLoop loop{"device"};
  std::unique_ptr<Server> server;
  CancelSource cancel;
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<vfio::Device> device;
};

}  // namespace handover::vfio_user
