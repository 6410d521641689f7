#include "migration/parallel_saver.h"

#include <pthread.h>

#include "handover/base/trace.h"

namespace handover {
namespace {

/// One item's way to the channels: numbers nothing, counts, and waits for the destination's room.
class ItemPackets final : public PacketSink {
 public:
  ItemPackets(MultifdSender& channels, ReturnPathListener& answers, const Migratable& item,
              std::uint32_t section_id, const CancelToken& cancel)
      : channels_(channels),
        answers_(answers),
        section_(item.section_name()),
        instance_(item.instance_id()),
        section_id_(section_id),
        cancel_(cancel) {}

  Status send(Packet packet) override {
    const auto size = packet.size;
    const auto charge = packet.charge();
    HANDOVER_TRY(answers_.wait_for_room(section_id_, charged_, charge, cancel_));
    HANDOVER_TRY(channels_.send_packet(section_, instance_, std::move(packet), cancel_));
    charged_ += charge;
    sent_ += size;
    return {};
  }
  std::uint64_t sent() const { return sent_; }

 private:
  MultifdSender& channels_;
  ReturnPathListener& answers_;
  const std::string section_;
  const std::uint32_t instance_;
  const std::uint32_t section_id_;
  const CancelToken& cancel_;
  std::uint64_t charged_ = 0;
  std::uint64_t sent_ = 0;
};

}  // namespace

ParallelSaver::ParallelSaver(MultifdSender& channels, ReturnPathListener& answers, const CancelToken& cancel)
    : channels_(channels), answers_(answers), passes_on_(cancel.stop(), [this, cancel] {
        const auto reason = cancel.check();
        cancel_.cancel(reason ? "cancelled" : reason.error().to_string());
      }) {
}

ParallelSaver::~ParallelSaver() {
  cancel_.cancel("the save was given up");
  for (auto& thread : threads_)
    if (thread.joinable()) thread.join();
}

void ParallelSaver::start(Migratable& item, std::uint32_t section_id) {
  std::size_t index;
  {
    std::lock_guard lock(mutex_);
    index = sent_.size();
    sent_.push_back(0);
  }
  threads_.emplace_back([this, &item, section_id, index] {
    ::pthread_setname_np(::pthread_self(), "save-device");
    HANDOVER_TRACE(thread_start, "save-device");
    run(item, section_id, index);
    HANDOVER_TRACE(thread_end, "save-device");
  });
}

void ParallelSaver::run(Migratable& item, std::uint32_t section_id, std::size_t index) {
  const auto token = cancel_.token();
  ItemPackets packets(channels_, answers_, item, section_id, token);
  auto saved = item.save_parallel(packets, token);
  {
    std::lock_guard lock(mutex_);
    sent_[index] = packets.sent();
    if (saved || failure_) return;
    failure_ = std::move(saved).error().with_context("saving " + item.display_name());
  }
  cancel_.cancel("another device failed");
}

Status ParallelSaver::wait() {
  for (auto& thread : threads_)
    if (thread.joinable()) thread.join();
  std::lock_guard lock(mutex_);
  return failure_ ? Status(std::unexpected(*failure_)) : Status{};
}

}  // namespace handover
