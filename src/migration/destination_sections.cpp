// What the destination reads around the bodies of the items.

#include "handover/base/log.h"
#include "handover/base/trace.h"
#include "handover/migration/protocol.h"
#include "handover/stream/command.h"
#include "handover/stream/configuration.h"
#include "handover/stream/return_path.h"
#include "migration/destination_impl.h"

namespace handover {

using stream::Record;

Status Destination::Impl::read_start_of_stream() {
  HANDOVER_ASSIGN(auto configuration, stream::read_header(*in));
  if (configuration.machine != kMachineName)
    return fail(Errc::mismatch, "the stream is of a machine `{}`, this is a `{}`", configuration.machine,
                kMachineName);
  for (const auto& name : configuration.capabilities)
    if (name != "mapped-ram")
      return fail(Errc::unsupported, "the stream was written with `{}`, which cannot be loaded here", name);
  // What the file says counts; nobody needs to set the capability here as well.
  mapped_ram = configuration.has_capability("mapped-ram");
  log::info("{} has {}", channel->name(),
            mapped_ram ? "every page at a place of its own (mapped-ram)" : "its pages in the stream");
  return {};
}

Status Destination::Impl::read_records() {
  for (;;) {
    const auto at = in->offset();
    HANDOVER_ASSIGN(auto type, stream::read_record(*in));
    switch (type) {
      case Record::section_start:
      case Record::section_full:
        HANDOVER_TRY(read_opening_section(type));
        break;
      case Record::section_part:
      case Record::section_end:
        HANDOVER_TRY(read_later_section(type));
        break;
      case Record::command:
        HANDOVER_TRY(obey_command());
        break;
      case Record::eof:
        // A source without a return path has not asked before.
        HANDOVER_TRY(finish_loading());
        HANDOVER_TRACE(mark_read, at);
        return pass_point(committed);
      default:
        return fail(Errc::protocol, "a record of type {} at offset {} does not belong here",
                    stream::record_name(type), at);
    }
  }
}

Status Destination::Impl::read_opening_section(Record kind) {
  const auto at = in->offset() - 1;
  HANDOVER_ASSIGN(auto header, stream::read_section_header(*in, kind));
  auto matches = [&](const Migratable& item) {
    return item.section_name() == header.name && item.instance_id() == header.instance;
  };
  Migratable* item = matches(global_state) ? &global_state : nullptr;
  if (matches(plan)) {
    if (loading_begun)
      return fail(Errc::protocol, "section `{}` at offset {} comes too late", header.name, at);
    item = &plan;
  }
  for (auto* known : machine.migratables())
    if (matches(*known)) item = known;
  if (!item)
    return fail(Errc::mismatch,
                "section `{}` instance {} at offset {}: this machine has no such item; "
                "start the destination with the same devices as the source",
                header.name, header.instance, at);
  if (header.version > item->version_id())
    return fail(Errc::mismatch, "section `{}` at offset {} has version {}, this side knows up to {}",
                header.name, at, header.version, item->version_id());
  const bool live = kind == Record::section_start;
  if (live ? !item->is_live() : !item->has_state())
    return fail(Errc::protocol, "section `{}` at offset {} is of the wrong kind", header.name, at);
  auto [known, fresh] = by_id.try_emplace(header.id, item);
  // A VFIO device opens twice: its START and its FULL have the same id.
  if (!fresh && (known->second != item || live))
    return fail(Errc::protocol, "section id {} of `{}` at offset {} is in use by `{}`", header.id,
                header.name, at, known->second->section_name());
  if (!item->is_early()) HANDOVER_TRY(begin_loading());
  HANDOVER_TRACE(section_load, header.name.c_str(), static_cast<int>(kind), at);
  HANDOVER_TRY_CONTEXT(live ? item->load_live(*in, header.version) : item->load_state(*in, header.version),
                       "loading section `{}` that began at offset {}", header.name, at);
  if (!live) stated.insert(item);
  if (live) {
    id_of[item] = header.id;
    report(*item, {});  // says how much may wait
  }
  return stream::read_section_footer(*in, header);
}

Status Destination::Impl::read_later_section(Record kind) {
  const auto at = in->offset() - 1;
  HANDOVER_ASSIGN(auto header, stream::read_section_header(*in, kind));
  const auto id = header.id;
  const auto found = by_id.find(id);
  if (found == by_id.end() || !found->second->is_live())
    return fail(Errc::protocol, "section id {} at offset {} was never started", id, at);
  auto& item = *found->second;
  HANDOVER_TRACE(section_load, item.section_name().c_str(), static_cast<int>(kind), at);
  HANDOVER_TRY_CONTEXT(item.load_live(*in, item.version_id()), "loading section `{}` that began at offset {}",
                       item.section_name(), at);
  if (kind == Record::section_end) ended.insert(&item);
  return stream::read_section_footer(*in, {.kind = kind, .id = id, .name = item.section_name()});
}

Status Destination::Impl::obey_command() {
  const auto at = in->offset() - 1;
  HANDOVER_ASSIGN(auto command, stream::read_command(*in));
  HANDOVER_TRACE(command_read, static_cast<int>(command.command), at);
  switch (command.command) {
    case stream::Command::open_return_path:
      if (!channel->two_way())
        return fail(Errc::unsupported, "the source asks for answers, but {} is one-way", channel->name());
      if (!std::exchange(return_path_open, true)) replies = std::make_unique<ReplySender>(*channel);
      return {};
    case stream::Command::ping: {
      if (!return_path_open) return fail(Errc::protocol, "PING at offset {} without a return path", at);
      const auto token = command.word();
      if (token == kPingProgress) progress_asked = true;
      if (token == kPingReady) {
        HANDOVER_TRY(finish_loading());
        HANDOVER_TRY(pass_point(ready));
      }
      reply(stream::Reply::pong, token);
      return {};
    }
    case stream::Command::switchover_start:
      for (auto* item : machine.migratables())
        HANDOVER_TRY_CONTEXT(item->switchover_start(), "{}", item->display_name());
      return {};
    default:
      return fail(Errc::unsupported,
                  "command {} at offset {} belongs to a kind of migration (postcopy) that "
                  "machines with VFIO devices cannot do",
                  static_cast<int>(command.command), at);
  }
}

Status Destination::Impl::finish_loading() {
  if (std::exchange(loading_finished, true)) return {};
  HANDOVER_TRY(begin_loading());
  for (auto* item : machine.migratables()) {
    if (item->is_live() && !ended.contains(item))
      return fail(Errc::protocol, "the stream ends the load without the end of `{}`", item->display_name());
    if (item->has_state() && !stated.contains(item))
      return fail(Errc::protocol, "the stream has no state of `{}`", item->display_name());
  }
  HANDOVER_TRY(finish_items());
  HANDOVER_TRACE(load_finished);
  return {};
}

void Destination::Impl::reply(stream::Reply type, std::uint32_t value) {
  replies->send({.type = type, .value = value});
}

}  // namespace handover
