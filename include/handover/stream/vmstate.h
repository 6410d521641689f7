#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "handover/base/result.h"
#include "handover/stream/stream_reader.h"
#include "handover/stream/stream_writer.h"

/// Serialised state, described once: the description writes the bytes, reads and checks them, and prints
/// itself as QEMU's vmdescription JSON.  Encodings are QEMU's (big-endian, no tags, no lengths).
namespace handover::vmstate {

class Description;

/// One field of a description, with the object's type erased.
struct Field {
  std::string name;
  std::string type;                  ///< QEMU's name: "uint32", "buffer", "struct", "uint64 equal" ...
  std::uint32_t since = 0;           ///< first version of the description that has it
  std::uint32_t until = 0xffffffff;  ///< last version that has it
  std::size_t count = 1;             ///< array length; 1 for a plain field
  bool is_array = false;
  std::function<std::size_t(const void*)> dynamic_count;  ///< for arrays whose length is another field
  std::function<Status(void*)> make_room;  ///< the same on load: checks the count that was read, and resizes
  std::shared_ptr<const Description> nested;                                  ///< type "struct"
  std::function<const void*(const void* object, std::size_t index)> element;  ///< where a structure is
  std::function<void(const void* object, std::size_t index, StreamWriter&)> save;
  std::function<Status(void* object, std::size_t index, StreamReader&)> load;
  std::size_t element_size = 0;  ///< bytes of one element, where it is fixed
};

/// An ordered list of fields and conditional subsections.
///
/// Build one with Describe<T> below; a finished description is immutable and may be shared by threads.
class Description {
 public:
  std::string name;
  std::uint32_t version = 1;
  std::uint32_t minimum_version = 1;
  std::vector<Field> fields;
  struct Subsection {
    std::shared_ptr<const Description> description;
    std::function<bool(const void*)> needed;
  };
  std::vector<Subsection> subsections;
  /// Gets the object ready to be written; may run more than once for one save.
  std::function<void(void*)> pre_save;
  /// Checks and applies what was loaded; a failure fails the load.
  std::function<Status(void*, std::uint32_t version)> post_load;

  /// Appends fields and needed subsections at the present version.
  void save(const void* object, StreamWriter& out) const;
  /// Reads a body of `stream_version`; fails if that is above `version` or below `minimum_version`, on an
  /// unknown subsection, on an "equal" field that differs, or in post_load.  Every failure names the field.
  Status load(void* object, StreamReader& in, std::uint32_t stream_version) const;
  /// The description object of the vmdescription, with the sizes that save() would write for this object.
  nlohmann::ordered_json describe(const void* object) const;
};

/// Builder: Describe<Cpu>("cpu", 2).field("pc", &Cpu::pc).field("mode", &Cpu::mode, {.since = 2}).done().
template <class T>
class Describe {
 public:
  struct Versions {
    std::uint32_t since = 0;
    std::uint32_t until = 0xffffffff;
  };

  Describe(std::string name, std::uint32_t version, std::uint32_t minimum_version = 1);

  /// bool, or an integer of 1, 2, 4 or 8 bytes; std::array of these becomes a fixed array.
  template <class M>
  Describe& field(std::string name, M T::* member, Versions versions = {});
  /// An integer that must have the same value on both sides.
  template <class M>
  Describe& equal(std::string name, M T::* member, Versions versions = {});
  /// std::array<std::byte, N>: raw bytes.
  template <std::size_t N>
  Describe& buffer(std::string name, std::array<std::byte, N> T::* member, Versions versions = {});
  /// std::vector<std::byte> whose size is another, earlier field and at most `limit`.
  template <class Count>
  Describe& sized_buffer(std::string name, std::vector<std::byte> T::* member, Count T::* count,
                         std::size_t limit, Versions versions = {});
  /// Text of at most N - 1 characters, NUL padded to N ("buffer").
  Describe& fixed_text(std::string name, std::string T::* member, std::size_t n, Versions versions = {});
  /// Bytes that are written as zeros and ignored on load.
  Describe& unused(std::size_t n, Versions versions = {});
  /// A nested description; std::array of structures becomes an array.
  template <class M>
  Describe& structure(std::string name, M T::* member, std::shared_ptr<const Description> nested,
                      Versions versions = {});
  /// std::vector of structures whose length is another, earlier field and at most `limit`.
  template <class M, class Count>
  Describe& sized_array(std::string name, std::vector<M> T::* member, Count T::* count, std::size_t limit,
                        std::shared_ptr<const Description> nested, Versions versions = {});
  /// Written only if `needed` says so; its name must begin with the owner's name and a slash.
  Describe& subsection(std::shared_ptr<const Description> description, std::function<bool(const T&)> needed);
  Describe& pre_save(std::function<void(T&)> hook);
  Describe& post_load(std::function<Status(T&, std::uint32_t version)> hook);

  std::shared_ptr<const Description> done() { return std::move(description_); }

 private:
  Field& add(std::string name, std::string type, Versions versions);
  static void nest(Field& field, std::shared_ptr<const Description> nested);

  std::shared_ptr<Description> description_;
};

}  // namespace handover::vmstate

#include "handover/stream/vmstate_describe.h"
