// What the destination does for its items beside reading their sections: channels, threads, progress.

#include <algorithm>
#include <thread>
#include <vector>

#include "handover/base/trace.h"
#include "migration/destination_impl.h"

namespace handover {

Status Destination::Impl::begin_loading() {
  if (std::exchange(loading_begun, true)) return {};
  if (plan.multifd() > 0) HANDOVER_TRY(begin_multifd());
  for (auto* item : machine.migratables())
    HANDOVER_TRY(item->load_setup(options_for(*item)));
  if (multifd) multifd->items_ready();
  return {};
}

Status Destination::Impl::begin_multifd() {
  HANDOVER_ASSIGN(auto lanes, connections->accept_multifd(plan.multifd()));
  RamMigration* ram = nullptr;
  for (auto* item : machine.migratables())
    if (auto* found = dynamic_cast<RamMigration*>(item)) ram = found;
  if (ram) ram->set_page_barrier([this] { return multifd->barrier(giving_up.token()); });
  multifd = std::make_unique<MultifdReceiver>(
      std::move(lanes),
      MultifdReceiver::Sinks{
          .ram = ram,
          .find = [this](const std::string& section, std::uint32_t instance) -> Migratable* {
            for (auto* item : machine.migratables())
              if (item->section_name() == section && item->instance_id() == instance) return item;
            return nullptr;
          },
          .failed = [this](const Error& why) { note_failure(why); }});
  return {};
}

LoadOptions Destination::Impl::options_for(Migratable& item) {
  LoadOptions with;
  with.cancel = giving_up.token();
  with.mapped_ram = mapped_ram;
  if (options.capabilities.multifd) with.file_threads = options.parameters.multifd_channels;
  with.direct_io = options.parameters.direct_io;
  with.parallel = plan.multifd() > 0;
  with.max_queued = room_for(item);
  if (return_path_open) with.approve_switchover = [this] { reply(stream::Reply::switchover_ack, 0); };
  with.report = [this, &item](const LoadProgress& progress) { report(item, progress); };
  with.failed = [this](const Error& why) { note_failure(why); };
  return with;
}

void Destination::Impl::report(const Migratable& item, const LoadProgress& progress) {
  if (!replies || !progress_asked) return;
  if (const auto id = id_of.find(&item); id != id_of.end())
    replies->progress(id->second, progress, room_for(item));
}

// However little was granted, the next packet must fit while one is loaded.
std::uint64_t Destination::Impl::room_for(const Migratable& item) const {
  return std::max<std::uint64_t>(options.parameters.max_queued_buffers_size,
                                 2 * Packet{nullptr, item.largest_packet()}.charge());
}

void Destination::Impl::note_failure(const Error& why) {
  std::unique_lock lock(mutex);
  if (failure || giving_up.cancelled()) return;
  failure = why;
  // The load thread may wait for the source; the way back stays open for the bad news.
  if (shut_on_cancel) shut_on_cancel->stop_reading();
  lock.unlock();
  giving_up.cancel(why.to_string());
}

// A device may take long to judge what it was given, so all do it at once.
Status Destination::Impl::finish_items() {
  std::vector<Migratable*> slow;
  for (auto* item : machine.migratables()) {
    if (item->has_parallel_state())
      slow.push_back(item);
    else
      HANDOVER_TRY_CONTEXT(item->load_finish(), "{} is not complete", item->display_name());
  }
  std::vector<Status> results(slow.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 1; i < slow.size(); ++i)
      threads.emplace_back([&, i] { results[i] = slow[i]->load_finish(); });
    if (!slow.empty()) results[0] = slow[0]->load_finish();
  }
  for (std::size_t i = 0; i < slow.size(); ++i)
    HANDOVER_TRY_CONTEXT(std::move(results[i]), "{} is not complete", slow[i]->display_name());
  return {};
}

}  // namespace handover
