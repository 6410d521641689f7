// What the source writes around the bodies of the items: numbers, headers, footers, the description, and the
// count of what each item cost.

#include "handover/base/trace.h"
#include "handover/stream/section.h"
#include "migration/source_impl.h"

namespace handover {

void Source::Impl::number_sections() {
  std::uint32_t id = 0;
  for (auto* item : machine.migratables()) entries.push_back({item, id++});
  entries.push_back({&global_state, id});  // the last section, as QEMU writes it
  note([&](Statistics& all) {
    for (const auto& entry : entries)
      all.items.push_back({.name = entry.item->display_name(), .section = entry.item->section_name()});
  });
}

void Source::Impl::account(const Entry& entry, Phase phase, std::uint64_t bytes) {
  const auto counters = entry.item->counters();
  note([&](Statistics& all) {
    auto& item = all.items[entry.id];
    (phase == Phase::setup ? item.setup_bytes : phase == Phase::precopy ? item.precopy_bytes : item.downtime_bytes) +=
        bytes;
    item.normal_pages = counters.normal_pages;
    item.zero_pages = counters.zero_pages;
    all.transferred = writer->position();
  });
}

namespace {

/// One section: header, body, footer.  Returns the bytes it took.
template <class Body>
Result<std::uint64_t> write_section(StreamWriter& out, stream::Record kind, const Source::Impl::Entry& entry,
                                    Body body) {
  const auto before = out.position();
  stream::write_section_header(out, {.kind = kind,
                                     .id = entry.id,
                                     .name = entry.item->section_name(),
                                     .instance = entry.item->instance_id(),
                                     .version = entry.item->version_id()});
  HANDOVER_TRY_CONTEXT(body(), "saving {}", entry.item->display_name());
  stream::write_section_footer(out, entry.id);
  HANDOVER_TRY(out.status());
  return out.position() - before;
}

}  // namespace

Status Source::Impl::write_early() {
  for (const auto& entry : entries) {
    if (!entry.item->is_early()) continue;
    HANDOVER_ASSIGN(auto bytes, write_section(*writer, stream::Record::section_full, entry,
                                              [&] { return entry.item->save_state(*writer); }));
    vmdescription.add(*entry.item, bytes);
    account(entry, Phase::setup, bytes);
  }
  return {};
}

Status Source::Impl::write_starts() {
  for (const auto& entry : entries) {
    if (!entry.item->is_live()) continue;
    HANDOVER_ASSIGN(auto bytes, write_section(*writer, stream::Record::section_start, entry,
                                              [&] { return entry.item->save_setup(*writer); }));
    account(entry, Phase::setup, bytes);
  }
  return writer->flush();
}

Status Source::Impl::write_ends(bool ram_only) {
  for (const auto& entry : entries) {
    if (!entry.item->is_live() || (entry.item == &ram) != ram_only) continue;
    HANDOVER_TRACE(section_end_begin, entry.item->display_name().c_str());
    HANDOVER_ASSIGN(auto bytes, write_section(*writer, stream::Record::section_end, entry,
                                              [&] { return entry.item->save_complete(*writer); }));
    account(entry, Phase::downtime, bytes);
    HANDOVER_TRACE(section_end_done, entry.item->display_name().c_str(), bytes);
  }
  return writer->flush();
}

Status Source::Impl::write_states() {
  for (const auto& entry : entries) {
    if (!entry.item->has_state() || entry.item->is_early()) continue;
    HANDOVER_ASSIGN(auto bytes, write_section(*writer, stream::Record::section_full, entry,
                                              [&] { return entry.item->save_state(*writer); }));
    vmdescription.add(*entry.item, bytes);
    account(entry, Phase::downtime, bytes);
  }
  return writer->flush();
}

Status Source::Impl::write_end_mark() {
  writer->u8(static_cast<std::uint8_t>(stream::Record::eof));
  vmdescription.write(*writer);
  return writer->flush();
}

}  // namespace handover
