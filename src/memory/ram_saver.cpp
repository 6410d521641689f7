#include "memory/ram_saver.h"

#include <algorithm>
#include <limits>

#include "handover/base/trace.h"
#include "handover/memory/guest_race.h"
#include "handover/memory/zero_page.h"
#include "handover/stream/format.h"

namespace handover {
namespace {

using namespace stream;

/// Pages taken at once: few enough for a cancel and the budget to be looked at often.
constexpr std::uint64_t kRunPages = 256;

}  // namespace

RamSaver::RamSaver(GuestMemory& memory, std::span<DirtySource* const> sources, RamProgress& progress,
                   PageSink* sink)
    : memory_(memory),
      sources_(sources.begin(), sources.end()),
      progress_(progress),
      sink_(sink),
      dirty_(memory) {
}

RamSaver::~RamSaver() {
  if (sink_) count_sunk();
  for (auto* source : sources_)
    source->stop();
}

Status RamSaver::setup(StreamWriter& out) {
  // The logs start before the first page is taken, so that no write falls between.
  for (auto* source : sources_)
    HANDOVER_TRY_CONTEXT(source->start(), "cannot start the dirty log of {}", source->name());
  for (const auto& block : memory_.blocks())
    dirty_.of(*block).mark_all();
  left_ = dirty_.count();
  progress_.begin_round(left_);

  const std::uint64_t before = out.position();
  out.be64(memory_.size() | ram::kMemSize);
  std::vector<const RamBlock*> by_length;
  for (const auto& block : memory_.blocks())
    by_length.push_back(block.get());
  std::ranges::stable_sort(by_length, std::greater{}, &RamBlock::size);
  for (const auto* block : by_length) {
    out.str8(block->name());
    out.be64(block->size());
    if (sink_) HANDOVER_TRY(sink_->describe_block(out, *block));
  }
  if (sink_) HANDOVER_TRY(sink_->begin(out));
  out.be64(ram::kEos);
  progress_.count({.bytes = out.position() - before});
  return out.status();
}

Status RamSaver::sync(DirtySync which) {
  for (auto* source : sources_)
    HANDOVER_TRY_CONTEXT(source->sync(dirty_, which), "cannot read the dirty log of {}", source->name());
  const std::uint64_t before = left_;
  left_ = dirty_.count();
  progress_.begin_round(left_ - before);
  HANDOVER_TRACE(ram_sync, progress_.sync_count(), left_ - before, left_);
  return {};
}

Result<Pending> RamSaver::pending(bool exact) {
  if (exact) HANDOVER_TRY(sync(DirtySync::round));
  return Pending{.must_stop = 0, .can_precopy = left_ * kPageSize, .hold_switchover = false};
}

Result<Iterated> RamSaver::iterate(StreamWriter& out, const IterateBudget& budget) {
  const std::uint64_t before = out.position();
  HANDOVER_TRY(send(out, budget.bytes, budget.cancel));
  HANDOVER_TRY(end_body(out));
  HANDOVER_TRACE(ram_iterate, out.position() - before, left_);
  return left_ > 0 ? Iterated::more : Iterated::nothing_now;
}

Status RamSaver::complete(StreamWriter& out) {
  HANDOVER_TRY(sync(DirtySync::last));
  HANDOVER_TRY(send(out, std::numeric_limits<std::uint64_t>::max(), CancelToken{}));
  if (sink_) HANDOVER_TRY(sink_->finish(out));
  HANDOVER_TRY(end_body(out));
  progress_.end_rounds();
  return {};
}

Status RamSaver::end_body(StreamWriter& out) {
  if (sink_) count_sunk();
  out.be64(ram::kEos);
  progress_.count({.bytes = sizeof ram::kEos});
  return out.status();
}

Status RamSaver::send(StreamWriter& out, std::uint64_t bytes, const CancelToken& cancel) {
  const std::uint64_t start = out.position();
  std::uint64_t handed_over = 0;
  const auto& blocks = memory_.blocks();
  while (left_ > 0) {
    HANDOVER_TRY(cancel.check());
    // One page at least, whatever the budget.
    const std::uint64_t written = out.position() - start + handed_over;
    if (written > 0 && written >= bytes) break;
    const std::uint64_t most = std::clamp<std::uint64_t>((bytes - written) / kPageSize, 1, kRunPages);

    const RamBlock& block = *blocks[block_index_];
    const auto run = dirty_.of(block).take_run(next_page_, most);
    if (!run) {
      next_page_ = 0;
      if (++block_index_ < blocks.size()) continue;
      block_index_ = 0;
      first_pass_ = false;
      if (sink_) HANDOVER_TRY(sink_->barrier(out));
      continue;
    }
    // The bits are clear now, and only now may the pages be read.
    if (sink_) {
      HANDOVER_TRY(hand_over(block, *run, cancel));
      handed_over += run->count * kPageSize;
    } else {
      const std::uint64_t before = out.position();
      ItemCounters sent = send_run(out, block, *run);
      sent.bytes = out.position() - before;
      progress_.count(sent);
    }
    next_page_ = run->first + run->count;
    left_ -= std::min(left_, run->count);
    HANDOVER_TRY(out.status());
  }
  if (left_ == 0) first_pass_ = false;
  return {};
}

Status RamSaver::hand_over(const RamBlock& block, PageRun run, const CancelToken& cancel) {
  if (!backed_ || &backed_->block() != &block) backed_.emplace(block);
  const std::uint64_t end = run.first + run.count;
  for (std::uint64_t page = run.first; page < end;) {
    const PageRun rest{page, end - page};
    const PageRun backed = first_pass_ ? backed_->next(rest) : rest;
    if (backed.first > page)
      HANDOVER_TRY(sink_->send(block, {page, backed.first - page}, PageSink::Content::zero, cancel));
    if (backed.count > 0) HANDOVER_TRY(sink_->send(block, backed, PageSink::Content::unknown, cancel));
    page = backed.first + backed.count;
  }
  return {};
}

// The sink counts what its threads have sent, which is behind what was handed over.
void RamSaver::count_sunk() {
  const auto now = sink_->counters();
  progress_.count({.bytes = now.bytes - sunk_.bytes,
                   .normal_pages = now.normal_pages - sunk_.normal_pages,
                   .zero_pages = now.zero_pages - sunk_.zero_pages});
  sunk_ = now;
}

ItemCounters RamSaver::send_run(StreamWriter& out, const RamBlock& block, PageRun run) {
  const GuestRace race;
  ItemCounters sent;
  std::uint64_t page = run.first;
  const std::uint64_t end = run.first + run.count;
  if (!backed_ || &backed_->block() != &block) backed_.emplace(block);
  while (page < end) {
    // A page that was dirtied is there; only in the first pass can the host lack memory behind one.
    const PageRun rest{page, end - page};
    const PageRun backed = first_pass_ ? backed_->next(rest) : rest;
    sent.zero_pages += backed.first - page;
    for (; page < backed.first; ++page)
      send_zero(out, block, page);
    for (; page < backed.first + backed.count; ++page) {
      if (is_zero_page(block.page(page).data())) {
        send_zero(out, block, page);
        ++sent.zero_pages;
      } else {
        send_normal(out, block, page);
        ++sent.normal_pages;
      }
    }
  }
  return sent;
}

std::uint64_t RamSaver::word(const RamBlock& block, std::uint64_t page, std::uint64_t kind) const {
  return page * kPageSize | kind | (&block == last_block_ ? ram::kContinue : 0);
}

void RamSaver::named(StreamWriter& out, const RamBlock& block) {
  if (&block == last_block_) return;
  out.str8(block.name());
  last_block_ = &block;
}

void RamSaver::send_zero(StreamWriter& out, const RamBlock& block, std::uint64_t page) {
  out.be64(word(block, page, ram::kZero));
  named(out, block);
  out.u8(0);
}

void RamSaver::send_normal(StreamWriter& out, const RamBlock& block, std::uint64_t page) {
  out.be64(word(block, page, ram::kPage));
  named(out, block);
  out.page_ref(block.page(page));
}

}  // namespace handover
