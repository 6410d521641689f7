#include <algorithm>
#include <nlohmann/json.hpp>

#include "handover/stream/vmstate.h"

/// Descriptions as QEMU's vmdescription JSON (qemu-stream.md, 2.8).
namespace handover::vmstate {
namespace {

/// Takes everything and keeps nothing; a writer on it measures.
class Nowhere final : public Channel {
 public:
  Result<std::size_t> read_some(std::span<const iovec>) override { return 0; }
  Status write_all(std::span<const iovec>) override { return {}; }
  void shutdown() override {}
  bool two_way() const override { return false; }
  const std::string& name() const override { return name_; }

 private:
  std::string name_ = "nowhere";
};

/// Prints one object's description, with the sizes that its fields have on the wire.
class Printer {
 public:
  nlohmann::ordered_json description(const Description& from, const void* object) {
    nlohmann::ordered_json json = {
        {"vmsd_name", from.name}, {"version", from.version}, {"fields", nlohmann::ordered_json::array()}};
    for (const Field& field : from.fields)
      if (field.since <= from.version && from.version <= field.until)
        add_field(json["fields"], field, field_name(from, field), object);
    for (const auto& subsection : from.subsections)
      if (subsection.needed(object))
        json["subsections"].push_back(description(*subsection.description, object));
    return json;
  }

 private:
  /// Names that occur more than once in the list are numbered.
  static std::string field_name(const Description& from, const Field& field) {
    std::size_t before = 0, all = 0;
    for (const Field& other : from.fields) {
      if (other.name != field.name) continue;
      if (&other < &field) ++before;
      ++all;
    }
    return all == 1 ? field.name : fmt::format("{}[{}]", field.name, before);
  }

  /// True if every object has the same number of bytes.
  static bool same_size_always(const Field& field) {
    if (!field.nested) return field.element_size > 0 && !field.dynamic_count;
    return field.nested->subsections.empty() && !field.dynamic_count &&
           std::ranges::all_of(field.nested->fields, same_size_always);
  }

  static bool elements_are_alike(const Field& field) {
    if (!field.nested) return field.element_size > 0;
    return field.nested->subsections.empty() && std::ranges::all_of(field.nested->fields, same_size_always);
  }

  void add_field(nlohmann::ordered_json& list, const Field& field, const std::string& name,
                 const void* object) {
    const std::size_t count = field.dynamic_count ? field.dynamic_count(object) : field.count;
    const bool compress = count > 1 && elements_are_alike(field);
    for (std::size_t index = 0; index < (compress ? 1 : count); ++index) {
      nlohmann::ordered_json json = {{"name", name}};
      if (compress) json["array_len"] = count;
      json["type"] = field.type;
      if (field.nested) json["struct"] = description(*field.nested, field.element(object, index));
      json["size"] = size_of(field, object, index);
      list.push_back(std::move(json));
    }
  }

  std::uint64_t size_of(const Field& field, const void* object, std::size_t index) {
    if (field.element_size > 0) return field.element_size;
    const std::uint64_t before = scale_.position();
    field.save(object, index, scale_);
    return scale_.position() - before;
  }

  Nowhere nowhere_;
  StreamWriter scale_{nowhere_};
};

}  // namespace

nlohmann::ordered_json Description::describe(const void* object) const {
  return Printer().description(*this, object);
}

}  // namespace handover::vmstate
