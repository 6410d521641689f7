#include "handover/stream/inspector.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "handover/base/cancel.h"
#include "handover/base/unique_fd.h"
#include "handover/stream/stream_reader.h"
#include "stream/inspect/described_sections.h"
#include "stream/inspect/record_walker.h"
#include "stream/inspect/sha256.h"

namespace handover::stream {
namespace {

/// Fills `buffer` from `offset` of a file.
Status read_at(int fd, std::uint64_t offset, std::span<std::byte> buffer) {
  while (!buffer.empty()) {
    const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, "cannot read at offset {}", offset);
    if (got == 0) return fail(Errc::io, "the file became shorter while it was read");
    buffer = buffer.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

/// Where in the end of a file the text of a vmdescription record begins that reaches to the end exactly.
std::optional<std::size_t> find_text(std::span<const std::byte> tail) {
  constexpr std::size_t kHead = 6;  // EOF mark, type, length
  if (tail.size() <= kHead) return std::nullopt;
  for (std::size_t at = tail.size() - kHead; at-- > 0;) {
    if (tail[at] != std::byte{static_cast<std::uint8_t>(Record::eof)} ||
        tail[at + 1] != std::byte{static_cast<std::uint8_t>(Record::vmdescription)})
      continue;
    const std::size_t text = at + kHead;
    if (load_be<std::uint32_t>(tail.data() + at + 2) == tail.size() - text && tail[text] == std::byte{'{'})
      return text;
  }
  return std::nullopt;
}

/// Looks for the vmdescription in ever larger parts of the file's end.  A file without one, or with one that
/// is damaged, is walked without its help.
Result<std::optional<DescribedSections>> find_description(int fd, std::uint64_t start, std::uint64_t end) {
  const std::uint64_t most = std::min<std::uint64_t>(end - start, kMaxVmdescription + std::uint64_t{6});
  for (std::uint64_t window = std::min<std::uint64_t>(most, 256 * KiB);;
       window = std::min(most, window * 4)) {
    std::vector<std::byte> tail(window);
    HANDOVER_TRY(read_at(fd, end - window, tail));
    if (auto text = find_text(tail)) {
      auto described = read_described_sections(
          std::string_view(reinterpret_cast<const char*>(tail.data()) + *text, tail.size() - *text));
      if (described) return std::move(*described);
      return std::nullopt;
    }
    if (window == most) return std::nullopt;
  }
}

Result<std::string> hash_file(int fd, std::uint64_t start, std::uint64_t end) {
  Sha256 hash;
  std::vector<std::byte> buffer(256 * KiB);
  while (start < end) {
    const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), end - start));
    HANDOVER_TRY(read_at(fd, start, part));
    hash.add(part);
    start += part.size();
  }
  return hash.hex();
}

Result<StreamFacts> walk(Channel& channel, const InspectOptions& options, std::uint64_t base,
                         std::optional<DescribedSections> described) {
  StreamReader in(channel);
  StreamFacts facts;
  HANDOVER_ASSIGN(facts.configuration, read_header(in));
  facts.page_size = facts.configuration.page_size();
  if (!facts.configuration.page_bits && described && described->page_size &&
      std::has_single_bit(*described->page_size) && range_fits(*described->page_size, 0, 64 * KiB) &&
      *described->page_size >= KiB)
    facts.page_size = *described->page_size;
  RecordWalker walker(in, options, facts, std::move(described), base);
  HANDOVER_TRY(walker.walk());
  return facts;
}

Result<StreamFacts> inspect_opened(int fd, Channel& channel, std::uint64_t start, std::uint64_t size,
                                   const InspectOptions& options) {
  HANDOVER_ASSIGN(auto described, find_description(fd, start, size));
  HANDOVER_ASSIGN(auto facts, walk(channel, options, start, std::move(described)));
  facts.file_size = size - start;
  if (options.hash) {
    HANDOVER_ASSIGN(facts.file_sha256, hash_file(fd, start, size));
  }
  return facts;
}

}  // namespace

Result<StreamFacts> inspect_file(const Address& file, const InspectOptions& options) {
  HANDOVER_ASSIGN(auto listener, listen_on(file));
  HANDOVER_ASSIGN(auto channel, listener->accept({}));
  UniqueFd fd(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info{};
  if (!fd || ::fstat(fd.get(), &info) < 0) return fail_errno(errno, "cannot open {}", file.path);
  // A device has no end to look for the vmdescription at.
  auto facts = S_ISREG(info.st_mode) ? inspect_opened(fd.get(), *channel, file.offset,
                                                      static_cast<std::uint64_t>(info.st_size), options)
                                     : walk(*channel, options, file.offset, {});
  if (!facts) return std::unexpected(std::move(facts).error().with_context(file.path));
  return facts;
}

Result<StreamFacts> inspect_channel(Channel& channel, const InspectOptions& options, std::uint64_t base) {
  return walk(channel, options, base, {});
}

}  // namespace handover::stream
