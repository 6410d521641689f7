// What the source writes around the bodies of the items: numbers, headers, footers, the description, and the
// count of what each item cost.

#include "handover/base/trace.h"
#include "handover/stream/section.h"
#include "migration/source_impl.h"

namespace handover {

void Source::Impl::number_sections() {
  std::uint32_t id = 0;
  if (wants_multifd()) entries.push_back({&plan, id++});
  for (auto* item : machine.migratables())
    entries.push_back({item, id++});
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
    (phase == Phase::setup     ? item.setup_bytes
     : phase == Phase::precopy ? item.precopy_bytes
                               : item.downtime_bytes) += bytes;
    item.normal_pages = counters.normal_pages;
    item.zero_pages = counters.zero_pages;
    all.transferred = transferred();
    all.multifd_bytes = multifd ? multifd->bytes() : 0;
  });
}

Status Source::Impl::write_section(stream::Record kind, const Entry& entry, Phase phase,
                                   const std::function<Status()>& body) {
  // Pages may go beside the stream; START moves none, and begins the count anew.  What goes over channels is
  // counted when it is out (finish_channels).
  const bool counted = entry.item == ram && !multifd && kind != stream::Record::section_start;
  const auto sent = [&] { return counted ? ram->counters().bytes : writer->position(); };
  const auto before = sent();
  stream::write_section_header(*writer, {.kind = kind,
                                         .id = entry.id,
                                         .name = entry.item->section_name(),
                                         .instance = entry.item->instance_id(),
                                         .version = entry.item->version_id()});
  HANDOVER_TRY_CONTEXT(body(), "saving {}", entry.item->display_name());
  stream::write_section_footer(*writer, entry.id);
  HANDOVER_TRY(writer->status());
  account(entry, phase, sent() - before);
  return {};
}

Status Source::Impl::write_state(const Entry& entry, Phase phase) {
  auto& item = *entry.item;
  return write_section(stream::Record::section_full, entry, phase, [&]() -> Status {
    const auto body = writer->position();
    HANDOVER_TRY(item.save_state(*writer));
    if (const auto* description = item.description())
      vmdescription.add(item.section_name(), item.instance_id(), *description, item.described_object());
    else
      vmdescription.add_raw(item.section_name(), item.instance_id(), writer->position() - body);
    return {};
  });
}

Status Source::Impl::write_early() {
  for (const auto& entry : entries)
    if (entry.item->is_early()) HANDOVER_TRY(write_state(entry, Phase::setup));
  return {};
}

Status Source::Impl::write_starts() {
  for (const auto& entry : entries)
    if (entry.item->is_live())
      HANDOVER_TRY(write_section(stream::Record::section_start, entry, Phase::setup,
                                 [&] { return entry.item->save_setup(*writer, save_options); }));
  return writer->flush();
}

Status Source::Impl::write_ends(bool ram_only) {
  for (const auto& entry : entries) {
    if (!entry.item->is_live() || (entry.item == ram) != ram_only) continue;
    HANDOVER_TRACE(section_end_begin, entry.item->display_name().c_str());
    HANDOVER_TRY(write_section(stream::Record::section_end, entry, Phase::downtime,
                               [&] { return entry.item->save_complete(*writer); }));
    HANDOVER_TRACE(section_end_done, entry.item->display_name().c_str());
  }
  return writer->flush();
}

Status Source::Impl::write_states(bool before_devices) {
  for (const auto& entry : entries)
    if (entry.item->has_state() && !entry.item->is_early() &&
        entry.item->goes_before_devices() == before_devices)
      HANDOVER_TRY(write_state(entry, Phase::downtime));
  return writer->flush();
}

std::uint64_t Source::Impl::transferred() const {
  return (writer ? writer->position() : 0) + (multifd ? multifd->bytes() : 0) +
         (mapped_ram ? mapped_ram->counters().bytes : 0);
}

// Pages go beside the stream, and are counted when they have gone.
std::uint64_t Source::Impl::sent_by(const Entry& entry) const {
  return entry.item == ram ? transferred() : writer->position();
}

Status Source::Impl::write_end_mark() {
  stream::write_eof(*writer);
  stream::write_vmdescription(*writer, vmdescription.text());
  return writer->flush();
}

}  // namespace handover
