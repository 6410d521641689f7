// Dirty tracking behind a guest's IOMMU with the threads that there are: the guest's, which changes mappings,
// the device's, which writes, and the migration's.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <random>
#include <thread>

#include "unit/memory/random_seed.h"
#include "unit/vfio/dma_behind_iommu.h"

namespace handover::vfio {
namespace {

class DmaBehindIommuThreads : public DmaBehindIommu {
 protected:
  static std::uint64_t iova(std::mt19937_64& random) { return random() % 8 * 3 * kChunk + random() % 4; }

  void guest(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!done_) {
      const auto pages = 1 + random() % 2;
      if (random() % 2 == 0)
        (void)change({unmapping(iova(random), 4)});
      else
        (void)change({unmapping(iova(random), 2), mapping(iova(random), random() % (kRam - pages), pages)});
      ++changes_;
      changes_.notify_all();
    }
  }
  void writes(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!done_) {
      {
        std::lock_guard lock(mutex_);
        write(iova(random));
      }
      std::this_thread::yield();  // others want the lock, too
    }
  }
  // What was written before a sync has ended and was found is owed no more.  What is not found is with the
  // guest's thread, which is about to mark it, or else lost: the last sync tells.
  void sync_beside(DirtySync which) {
    ASSERT_TRUE(source->sync(dirty, which));
    ASSERT_TRUE(process.sync(dirty, which));
    Pages before;
    {
      std::lock_guard lock(mutex_);
      before = std::exchange(owed, {});
    }
    for (const auto page : take_found())
      before.erase(page);
    std::lock_guard lock(mutex_);
    owed.merge(before);
  }

  std::mutex mutex_;  // owed
  std::atomic<bool> done_{false};
  std::atomic<std::uint64_t> changes_{0};
};

// What it unmaps is asked of nobody; a write into that after the start would be lost.
TEST_F(DmaBehindIommuThreads, AChangeThatBeganBeforeTheStartHasEndedWhenTheStartHas) {
  set_up();
  ASSERT_TRUE(change({mapping(0, 5)}));
  std::atomic<bool> inside{false}, started{false};
  device.before_change = [&] {
    inside = true;
    inside.notify_all();
    // Time for a start that does not wait; one that waits is not there, however long this takes.
    for (int i = 0; i < 1000 && !started; ++i)
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    EXPECT_FALSE(started);
  };
  std::thread vcpu([&] { EXPECT_TRUE(change({unmapping(0)})); });
  inside.wait(false);
  EXPECT_TRUE(source->start());
  started = true;
  vcpu.join();
}

TEST_F(DmaBehindIommuThreads, NothingThatWasWrittenIsLost) {
  const auto seed = test::random_seed();
  set_up();
  for (std::uint64_t run = 0; run < 30 && !HasFailure(); ++run) {
    // All addresses, then only some: the log is started again while mappings come.
    device.most_bytes = run % 2 == 0 ? ~std::uint64_t{0} : 64 * GiB;
    device.fail_starts = run % 5 == 4 ? 1 : 0;
    done_ = false;
    std::thread vcpu([&] { guest(seed + run); });
    std::thread dma([&] { writes(seed + run + 1000); });
    EXPECT_TRUE(source->start());
    {
      std::lock_guard lock(mutex_);
      owed.clear();  // before a migration all pages are to be sent
    }
    for (int round = 0; round < 10 && !HasFatalFailure(); ++round) {
      const auto before = changes_.load();
      for (auto now = before; now < before + 20; now = changes_.load())
        changes_.wait(now);
      sync_beside(DirtySync::round);
    }
    done_ = true;
    vcpu.join();
    dma.join();
    sync_beside(DirtySync::last);
    EXPECT_EQ(owed, Pages{}) << "in run " << run;
    source->stop();
  }
}

}  // namespace
}  // namespace handover::vfio
