#pragma once

#include <cstring>
#include <memory>
#include <string>

#include "handover/channel/channel.h"
#include "handover/memory/mapped_ram_file.h"
#include "handover/memory/ram_migration.h"
#include "support/temp_folder.h"

/// RAM that is saved into a mapped-ram file and loaded from it, for tests.
namespace handover::test {

inline Address file_at(const std::string& path, std::uint64_t offset = 0) {
  Address address;
  address.kind = Address::Kind::file;
  address.path = path;
  address.offset = offset;
  return address;
}

/// The source's half.  Sections follow each other without headers; a START comes first.
class MappedSource {
 public:
  MappedSource(GuestMemory& memory, const Address& to, MappedRamFile::Options options = {})
      : channel(connect_channel(to, {}).value()),
        out(*channel),
        sink(MappedRamFile::create(*channel, options).value()),
        ram(memory),
        writes_(memory) {
    ram.add_dirty_source(writes_);
    ram.set_page_sink(sink.get());
  }
  ~MappedSource() { ram.cleanup(); }

  Status setup() { return ram.save_setup(out); }
  Result<Iterated> iterate(std::uint64_t bytes = UINT64_MAX) { return ram.save_iterate(out, {bytes, {}}); }
  Status sync() {
    HANDOVER_TRY(ram.pending(true));
    return {};
  }
  Status complete() {
    HANDOVER_TRY(ram.save_complete(out));
    return out.flush();
  }
  /// A machine that stood still: START and END alone.
  Status save() {
    HANDOVER_TRY(setup());
    return complete();
  }

  std::unique_ptr<Channel> channel;
  StreamWriter out;
  std::unique_ptr<MappedRamFile> sink;
  RamMigration ram;

 private:
  ProcessWrites writes_;
};

/// Loads `sections` of them.
inline Status load_mapped(RamMigration& ram, const Address& from, int sections, std::size_t threads = 0,
                          bool direct_io = false) {
  HANDOVER_ASSIGN(auto listener, listen_on(from));
  HANDOVER_ASSIGN(auto channel, listener->accept({}));
  StreamReader in(*channel);
  LoadOptions options;
  options.mapped_ram = true;
  options.file_threads = threads;
  options.direct_io = direct_io;
  auto loaded = [&]() -> Status {
    HANDOVER_TRY(ram.load_setup(options));
    for (int i = 0; i < sections; ++i)
      HANDOVER_TRY(ram.load_live(in, ram.version_id()));
    return {};
  }();
  ram.cleanup();
  return loaded;
}

inline bool same_content(const GuestMemory& left, const GuestMemory& right) {
  for (std::size_t i = 0; i < left.blocks().size(); ++i)
    if (std::memcmp(left.blocks()[i]->data(), right.blocks()[i]->data(), left.blocks()[i]->size()) != 0)
      return false;
  return true;
}

}  // namespace handover::test
