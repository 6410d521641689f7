#include "stream/inspect/vfio_walker.h"

#include <algorithm>

#include "handover/base/units.h"
#include "handover/stream/format.h"
#include "stream/inspect/footer_search.h"

namespace handover::stream {

bool VfioWalker::is_vfio(std::string_view section_name) {
  return section_name == "vfio" || section_name.ends_with("/vfio");
}

InspectedVfio& VfioWalker::device(const SectionHeader& header) {
  const std::string name =
      header.instance == 0 ? header.name : fmt::format("{}#{}", header.name, header.instance);
  auto [entry, added] = by_name_.emplace(name, facts_.vfio.size());
  if (added) {
    facts_.vfio.emplace_back().name = name;
    if (options_.hash) hashes_.emplace_back();
  }
  return facts_.vfio[entry->second];
}

Status VfioWalker::walk(InspectedSection& section, std::optional<std::uint64_t> body_size) {
  InspectedVfio& device = this->device(section.header);
  const auto index = static_cast<std::size_t>(&device - facts_.vfio.data());
  device.records.push_back({section.header.kind, {}});
  std::vector<std::string>& tags = device.records.back().tags;
  const std::uint64_t start = in_.offset();
  bool must_end = false;
  for (;;) {
    const std::uint64_t at = in_.offset();
    HANDOVER_ASSIGN(auto tag, in_.be64());
    if (must_end && tag != vfio_tag::kEndOfState)
      return fail(Errc::protocol, "VFIO tag {:#x} at offset {}, where the end of the state should be", tag,
                  at);
    switch (tag) {
      case vfio_tag::kEndOfState:
        tags.push_back("END_OF_STATE");
        return {};
      case vfio_tag::kDevInitDataSent:
        tags.push_back("INIT_DATA_SENT");
        return {};
      case vfio_tag::kDevConfigLoadReady:
        tags.push_back("CONFIG_LOAD_READY");
        return {};
      case vfio_tag::kDevSetupState:
        tags.push_back("DEV_SETUP_STATE");
        must_end = true;
        break;
      case vfio_tag::kDevConfigState: {
        HANDOVER_ASSIGN(auto size, config(section, start, body_size));
        tags.push_back(fmt::format("DEV_CONFIG_STATE[{}]", size));
        must_end = true;
        break;
      }
      case vfio_tag::kDevDataState: {
        HANDOVER_ASSIGN(auto size, in_.be64());
        tags.push_back(fmt::format("DEV_DATA_STATE({})", size));
        HANDOVER_TRY_CONTEXT(data(device, index, size), "{} bytes of device data at offset {}", size, at);
        break;
      }
      default:
        return fail(Errc::protocol, "unknown VFIO tag {:#x} at offset {}", tag, at);
    }
  }
}

Result<std::uint64_t> VfioWalker::config(InspectedSection& section, std::uint64_t start,
                                         std::optional<std::uint64_t> body_size) {
  std::byte end_tag[8];
  store_be(end_tag, vfio_tag::kEndOfState);
  if (!body_size) {
    section.guessed = true;
    return skip_to_footer(in_, section.header.id, end_tag);
  }
  const std::uint64_t used = in_.offset() - start + sizeof end_tag;
  if (*body_size < used)
    return fail(Errc::protocol, "a device config at offset {} in a body of {} bytes", in_.offset(),
                *body_size);
  HANDOVER_TRY(in_.skip(*body_size - used));
  return *body_size - used;
}

Status VfioWalker::data(InspectedVfio& device, std::size_t index, std::uint64_t size) {
  device.data_bytes += size;
  if (!options_.hash) return in_.skip(size);
  buffer_.resize(64 * KiB);
  while (size > 0) {
    const auto part = std::span(buffer_).first(std::min<std::uint64_t>(size, buffer_.size()));
    HANDOVER_TRY(in_.bytes(part));
    hashes_[index].add(part);
    size -= part.size();
  }
  return {};
}

void VfioWalker::finish() {
  for (std::size_t i = 0; i < hashes_.size(); ++i)
    facts_.vfio[i].data_sha256 = hashes_[i].hex();
}

}  // namespace handover::stream
