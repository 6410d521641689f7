#include "handover/memory/ram_migration.h"

#include <algorithm>

#include "handover/stream/format.h"
#include "memory/ram_loader.h"
#include "memory/ram_progress.h"
#include "memory/ram_saver.h"

namespace handover {

RamMigration::RamMigration(GuestMemory& memory)
    : memory_(memory), progress_(std::make_unique<RamProgress>()) {
}

RamMigration::~RamMigration() = default;

void RamMigration::add_dirty_source(DirtySource& source) {
  if (std::ranges::find(sources_, &source) == sources_.end()) sources_.push_back(&source);
}

void RamMigration::remove_dirty_source(DirtySource& source) {
  std::erase(sources_, &source);
}

std::vector<DirtyTracking> RamMigration::dirty_tracking() const {
  std::vector<DirtyTracking> all;
  for (const auto* source : sources_)
    if (auto tracking = source->tracking()) all.push_back(std::move(*tracking));
  return all;
}

Status RamMigration::save_setup(StreamWriter& out, const SaveOptions& options) {
  progress_->reset();
  const std::span<DirtySource* const> nobody;
  saver_ = std::make_unique<RamSaver>(memory_, options.stopped ? nobody : sources_, *progress_, sink_);
  return saver_->setup(out);
}

Result<RamSaver*> RamMigration::saver() {
  if (!saver_) return fail(Errc::state, "RAM is not being saved: save_setup() comes first");
  return saver_.get();
}

Result<Pending> RamMigration::pending(bool exact) {
  HANDOVER_ASSIGN(auto* half, saver());
  return half->pending(exact);
}

Result<Iterated> RamMigration::save_iterate(StreamWriter& out, const IterateBudget& budget) {
  HANDOVER_ASSIGN(auto* half, saver());
  return half->iterate(out, budget);
}

Status RamMigration::save_complete(StreamWriter& out) {
  HANDOVER_ASSIGN(auto* half, saver());
  return half->complete(out);
}

Status RamMigration::load_setup(const LoadOptions& options) {
  progress_->reset();
  loader_ = std::make_unique<RamLoader>(memory_, *progress_, barrier_);
  if (options.mapped_ram)
    loader_->expect_mapped_ram(
        {.threads = options.file_threads, .direct_io = options.direct_io, .cancel = options.cancel});
  return {};
}

Status RamMigration::load_live(StreamReader& in, std::uint32_t version) {
  if (version != stream::ram::kSectionVersion)
    return fail(Errc::mismatch, "section `ram` has version {} and only {} can be loaded", version,
                stream::ram::kSectionVersion);
  if (!loader_) return fail(Errc::state, "RAM is not being loaded: load_setup() comes first");
  return loader_->load(in);
}

Status RamMigration::load_pages(const stream::multifd::RamPacket& packet, StreamReader& in) {
  if (!loader_) return fail(Errc::state, "RAM is not being loaded");
  return loader_->load_pages(packet, in);
}

void RamMigration::cleanup() {
  saver_.reset();
  sink_ = nullptr;
  barrier_ = nullptr;
  loader_.reset();
}

ItemCounters RamMigration::counters() const {
  return progress_->counters();
}
std::uint64_t RamMigration::sync_count() const {
  return progress_->sync_count();
}
std::uint64_t RamMigration::dirty_pages_rate() const {
  return progress_->dirty_pages_rate();
}
std::vector<RamRound> RamMigration::rounds() const {
  return progress_->rounds();
}

}  // namespace handover
