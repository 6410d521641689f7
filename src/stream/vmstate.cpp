#include "handover/stream/vmstate.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "handover/base/log.h"
#include "handover/stream/format.h"

namespace handover::vmstate {
namespace {

bool active(const Field& field, std::uint32_t version) {
  return field.since <= version && version <= field.until;
}

std::size_t count_of(const Field& field, const void* object) {
  return field.dynamic_count ? field.dynamic_count(object) : field.count;
}

/// The name of the subsection that comes next and belongs to `owner`; nothing if none does.
///
/// A name that does not begin with the owner's belongs to an enclosing description.  There may be no name at
/// all: the next field of an enclosing description may begin with the same byte as a subsection.
Result<std::optional<std::string>> next_subsection(StreamReader& in, const std::string& owner) {
  HANDOVER_ASSIGN(auto marker, in.peek(1));
  if (marker.empty() || marker[0] != std::byte{static_cast<std::uint8_t>(stream::Record::subsection)})
    return std::nullopt;
  HANDOVER_ASSIGN(auto head, in.peek(2));
  if (head.size() < 2) return std::nullopt;
  const auto length = std::to_integer<std::size_t>(head[1]);
  if (length < owner.size() + 1) return std::nullopt;
  HANDOVER_ASSIGN(auto whole, in.peek(2 + length));
  if (whole.size() < 2 + length) return std::nullopt;
  std::string name(reinterpret_cast<const char*>(whole.data()) + 2, length);
  if (!name.starts_with(owner)) return std::nullopt;
  return name;
}

Status load_subsections(const Description& owner, void* object, StreamReader& in) {
  std::vector<bool> seen(owner.subsections.size());
  for (;;) {
    HANDOVER_ASSIGN(auto name, next_subsection(in, owner.name));
    if (!name) return {};
    auto found =
        std::ranges::find(owner.subsections, *name, [](const auto& s) { return s.description->name; });
    if (found == owner.subsections.end())
      return fail(Errc::unsupported, "unknown subsection '{}' at offset {}", *name, in.offset());
    const auto index = static_cast<std::size_t>(found - owner.subsections.begin());
    if (seen[index])
      return fail(Errc::protocol, "subsection '{}' comes twice, at offset {}", *name, in.offset());
    seen[index] = true;
    HANDOVER_TRY(in.skip(2 + name->size()));
    HANDOVER_ASSIGN_CONTEXT(auto version, in.be32(), "{}", *name);
    HANDOVER_TRY(found->description->load(object, in, version));
  }
}

Status load_field(const Field& field, void* object, StreamReader& in) {
  std::size_t count = field.count;
  if (field.dynamic_count) {
    HANDOVER_TRY(field.make_room(object));
    count = field.dynamic_count(object);
  }
  for (std::size_t index = 0; index < count; ++index) {
    auto loaded = field.load(object, index, in);
    if (!loaded && field.is_array)
      return std::unexpected(std::move(loaded).error().with_context(fmt::format("element {}", index)));
    HANDOVER_TRY(std::move(loaded));
  }
  return {};
}

}  // namespace

namespace detail {

void misuse(const std::string& description, const std::string& field, const char* what) {
  log::error("description '{}', field '{}': {}", description, field, what);
  std::abort();
}

void save_padded_text(const std::string& text, std::size_t size, StreamWriter& out) {
  out.text(text);
  out.zeros(size - text.size());
}

Status load_bytes(std::vector<std::byte>& to, std::size_t size, StreamReader& in) {
  constexpr std::size_t kStep = std::size_t{1} << 20;
  to.clear();
  while (to.size() < size) {
    const auto before = to.size();
    to.resize(before + std::min(kStep, size - before));
    HANDOVER_TRY(in.bytes(std::span(to).subspan(before)));
  }
  return {};
}

Result<std::string> load_padded_text(std::size_t size, StreamReader& in) {
  std::string text(size, '\0');
  HANDOVER_TRY(in.bytes(std::as_writable_bytes(std::span(text))));
  const auto end = text.find('\0');
  if (end == std::string::npos) return fail(Errc::protocol, "a text of {} bytes without its NUL", size);
  text.resize(end);
  return text;
}

}  // namespace detail

void Description::save(const void* object, StreamWriter& out) const {
  if (pre_save) pre_save(const_cast<void*>(object));
  for (const Field& field : fields) {
    if (!active(field, version)) continue;
    const std::size_t count = count_of(field, object);
    for (std::size_t index = 0; index < count; ++index)
      field.save(object, index, out);
  }
  for (const Subsection& subsection : subsections) {
    if (!subsection.needed(object)) continue;
    out.u8(static_cast<std::uint8_t>(stream::Record::subsection));
    out.str8(subsection.description->name);
    out.be32(subsection.description->version);
    subsection.description->save(object, out);
  }
}

Status Description::load(void* object, StreamReader& in, std::uint32_t stream_version) const {
  if (stream_version > version)
    return fail(Errc::mismatch, "{} has version {} in the stream, this side knows versions up to {}", name,
                stream_version, version);
  if (stream_version < minimum_version)
    return fail(Errc::mismatch, "{} has version {} in the stream, this side needs version {} or later", name,
                stream_version, minimum_version);
  for (const Field& field : fields)
    if (active(field, stream_version))
      HANDOVER_TRY_CONTEXT(load_field(field, object, in), "{}, field '{}'", name, field.name);
  HANDOVER_TRY_CONTEXT(load_subsections(*this, object, in), "{}", name);
  if (post_load) HANDOVER_TRY_CONTEXT(post_load(object, stream_version), "{}", name);
  return {};
}

}  // namespace handover::vmstate
