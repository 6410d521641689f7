#include "stream/inspect/described_sections.h"

#include <nlohmann/json.hpp>

namespace handover::stream {
namespace {

using Json = nlohmann::json;

/// Follows the events of the parser through root, devices, descriptions, fields and subsections, and skips
/// all else, such as the inside of structures, whose sizes are part of their field's.
class LengthReader final : public nlohmann::json_sax<Json> {
 public:
  DescribedSections result;
  std::string problem;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool number_integer(number_integer_t) override { return true; }

  bool number_unsigned(number_unsigned_t value) override {
    if (ignored_ > 0 || frames_.empty()) return true;
    Frame& top = frames_.back();
    if (top.role == Role::root && top.key == "page_size") result.page_size = value;
    if (top.role == Role::device && top.key == "instance_id") top.instance = value;
    if (top.role == Role::device && top.key == "size") top.raw_size = value;
    if (top.role == Role::field && top.key == "size") top.size = value;
    if (top.role == Role::field && top.key == "array_len") top.count = value;
    return true;
  }

  bool string(string_t& value) override {
    if (ignored_ > 0 || frames_.empty()) return true;
    Frame& top = frames_.back();
    if (top.role == Role::device && top.key == "name") top.name = value;
    if (top.role == Role::description && top.key == "vmsd_name") top.name = value;
    return true;
  }

  bool key(string_t& name) override {
    if (ignored_ == 0) frames_.back().key = name;
    return true;
  }

  bool start_object(std::size_t) override {
    if (frames_.empty()) return push(Role::root);
    switch (frames_.back().role) {
      case Role::devices:
        return ignored_ > 0 ? ignore() : push(Role::device);
      case Role::fields:
        return ignored_ > 0 ? ignore() : push(Role::field);
      case Role::subsections:
        return ignored_ > 0 ? ignore() : push(Role::description);
      default:
        return ignore();
    }
  }

  bool start_array(std::size_t) override {
    if (ignored_ > 0 || frames_.empty()) return ignore();
    const Frame& top = frames_.back();
    const bool described = top.role == Role::device || top.role == Role::description;
    if (top.role == Role::root && top.key == "devices") return push(Role::devices);
    if (described && top.key == "fields") return push(Role::fields);
    if (described && top.key == "subsections") return push(Role::subsections);
    return ignore();
  }

  bool end_array() override { return end(); }
  bool end_object() override { return end(); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    if (problem.empty()) problem = fmt::format("it is no proper JSON, at character {}", position);
    return false;
  }

 private:
  enum class Role { root, devices, device, fields, field, subsections, description };
  struct Frame {
    Role role;
    std::string key{};
    std::string name{};
    std::uint64_t instance = 0;
    std::optional<std::uint64_t> raw_size{};
    std::uint64_t size = 0;   ///< of a field's element, or of a body so far
    std::uint64_t count = 1;  ///< elements of a field
  };

  bool push(Role role) {
    if (frames_.size() >= kMaxDescriptionDepth) return refuse("it is nested too deeply");
    frames_.push_back({.role = role});
    return true;
  }
  bool ignore() {
    ++ignored_;
    return true;
  }
  bool refuse(std::string why) {
    problem = std::move(why);
    return false;
  }

  bool end() {
    if (ignored_ > 0) {
      --ignored_;
      return true;
    }
    const Frame done = std::move(frames_.back());
    frames_.pop_back();
    if (done.role == Role::field) {
      std::uint64_t bytes = 0;
      if (__builtin_mul_overflow(done.size, done.count, &bytes)) return refuse("its sizes overflow");
      return add(bytes);
    }
    if (done.role == Role::description) return add(2 + done.name.size() + 4) && add(done.size);
    if (done.role == Role::device) {
      if (result.sections.size() >= kMaxDescribedSections) return refuse("it has too many devices");
      result.sections.push_back({done.name, done.instance, done.raw_size.value_or(done.size)});
    }
    return true;
  }

  /// Adds bytes to the innermost body: the device or description that holds the list that was ended or left.
  bool add(std::uint64_t bytes) {
    std::uint64_t& size = frames_[frames_.size() - 2].size;
    return !__builtin_add_overflow(size, bytes, &size) || refuse("its sizes overflow");
  }

  std::vector<Frame> frames_;
  std::uint64_t ignored_ = 0;  ///< open objects and arrays inside something that is skipped
};

}  // namespace

Result<DescribedSections> read_described_sections(std::string_view json) {
  LengthReader reader;
  if (!Json::sax_parse(json.begin(), json.end(), &reader))
    return fail(Errc::protocol, "the vmdescription cannot be used: {}", reader.problem);
  return std::move(reader.result);
}

}  // namespace handover::stream
