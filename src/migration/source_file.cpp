// What a source does otherwise when its stream goes into a file.

#include "handover/base/log.h"
#include "migration/source_impl.h"

namespace handover {

stream::Configuration Source::Impl::configuration() const {
  stream::Configuration made{.machine = std::string(kMachineName)};
  if (wants_mapped_ram()) made.capabilities.emplace_back("mapped-ram");
  return made;
}

bool Source::Impl::wants_mapped_ram() const {
  return options.capabilities.mapped_ram && ram != nullptr;
}

bool Source::Impl::wants_multifd() const {
  return options.capabilities.multifd && !wants_mapped_ram() && !snapshot;
}

Status Source::Impl::open_page_file() {
  if (!wants_mapped_ram()) return {};
  const auto parameters = current_parameters();
  HANDOVER_ASSIGN(
      mapped_ram,
      MappedRamFile::create(*channel, {.threads = options.capabilities.multifd
                                                      ? static_cast<std::size_t>(parameters.multifd_channels)
                                                      : 0,
                                       .direct_io = parameters.direct_io,
                                       .cancel = cancel.token()}));
  ram->set_page_sink(mapped_ram.get());
  return {};
}

Status Source::Impl::commit_to_file() {
  // The mark must not be on the disk before what it speaks for: a host that fails now leaves a file without.
  HANDOVER_TRY(writer->flush());
  HANDOVER_TRY_CONTEXT(channel->commit(), "making {} durable", channel->name());
  HANDOVER_TRY(write_end_mark());
  HANDOVER_TRY_CONTEXT(channel->commit(), "making {} durable", channel->name());
  // Nobody runs from a file by itself: until here everything could be taken back.
  {
    std::lock_guard lock(mutex);
    HANDOVER_TRY(cancel.token().check());
    committed = true;
  }
  if (auto given = give_up(); !given) log::error("after the save: {}", given.error().to_string());
  finish(MigrationStatus::completed);
  return {};
}

}  // namespace handover
