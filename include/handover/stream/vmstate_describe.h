#pragma once

// The templates of vmstate::Describe.  The end of vmstate.h includes this; nobody else does.

#include <array>
#include <bit>
#include <concepts>
#include <utility>

namespace handover::vmstate {
namespace detail {

template <class M>
struct ArrayOf {
  using Element = M;
  static constexpr std::size_t kCount = 1;
  static constexpr bool kIsArray = false;
  static M& at(M& member, std::size_t) { return member; }
  static const M& at(const M& member, std::size_t) { return member; }
};
template <class E, std::size_t N>
struct ArrayOf<std::array<E, N>> {
  using Element = E;
  static constexpr std::size_t kCount = N;
  static constexpr bool kIsArray = true;
  static E& at(std::array<E, N>& member, std::size_t index) { return member[index]; }
  static const E& at(const std::array<E, N>& member, std::size_t index) { return member[index]; }
};

template <class E>
concept Scalar = std::integral<E> && sizeof(E) <= 8;

/// The unsigned integer of a scalar's size.
template <Scalar E>
using Wire =
    std::conditional_t<sizeof(E) == 1, std::uint8_t,
                       std::conditional_t<sizeof(E) == 2, std::uint16_t,
                                          std::conditional_t<sizeof(E) == 4, std::uint32_t, std::uint64_t>>>;

template <Scalar E>
std::string type_name() {
  if constexpr (std::same_as<E, bool>) return "bool";
  return (std::signed_integral<E> ? "int" : "uint") + std::to_string(8 * sizeof(E));
}

/// QEMU has one "equal" encoding for all 64-bit integers, and calls it signed.
template <Scalar E>
std::string equal_type_name() {
  return sizeof(E) == 8 ? "int64 equal" : type_name<E>() + " equal";
}

template <Scalar E>
void save_scalar(E value, StreamWriter& out) {
  const auto wire = static_cast<Wire<E>>(value);
  if constexpr (sizeof(E) == 1) out.u8(wire);
  if constexpr (sizeof(E) == 2) out.be16(wire);
  if constexpr (sizeof(E) == 4) out.be32(wire);
  if constexpr (sizeof(E) == 8) out.be64(wire);
}

template <Scalar E>
Result<E> load_scalar(StreamReader& in) {
  Result<Wire<E>> wire = [&] {
    if constexpr (sizeof(E) == 1) return in.u8();
    if constexpr (sizeof(E) == 2) return in.be16();
    if constexpr (sizeof(E) == 4) return in.be32();
    if constexpr (sizeof(E) == 8) return in.be64();
  }();
  if (!wire) return std::unexpected(std::move(wire).error());
  if constexpr (std::same_as<E, bool>)
    if (*wire > 1) return fail(Errc::protocol, "{} is not a truth value (0 or 1)", *wire);
  return static_cast<E>(*wire);
}

/// Ends the process: the program describes or fills its own state wrongly.
[[noreturn]] void misuse(const std::string& description, const std::string& field, const char* what);

template <std::integral Count>
Result<std::size_t> checked_count(Count count, std::size_t limit) {
  if (std::cmp_less(count, 0) || std::cmp_greater(count, limit))
    return fail(Errc::limit, "count {} is outside 0..{}", count, limit);
  return static_cast<std::size_t>(count);
}

/// Takes memory as the bytes come, and not for what is only announced.
Status load_bytes(std::vector<std::byte>& to, std::size_t size, StreamReader& in);
void save_padded_text(const std::string& text, std::size_t size, StreamWriter& out);
Result<std::string> load_padded_text(std::size_t size, StreamReader& in);

}  // namespace detail

template <class T>
Describe<T>::Describe(std::string name, std::uint32_t version, std::uint32_t minimum_version)
    : description_(std::make_shared<Description>()) {
  description_->name = std::move(name);
  description_->version = version;
  description_->minimum_version = minimum_version;
}

template <class T>
Field& Describe<T>::add(std::string name, std::string type, Versions versions) {
  Field& field = description_->fields.emplace_back();
  field.name = std::move(name);
  field.type = std::move(type);
  field.since = versions.since;
  field.until = versions.until;
  return field;
}

template <class T>
template <class M>
Describe<T>& Describe<T>::field(std::string name, M T::* member, Versions versions) {
  using Array = detail::ArrayOf<M>;
  using Element = typename Array::Element;
  Field& field = add(std::move(name), detail::type_name<Element>(), versions);
  field.count = Array::kCount;
  field.is_array = Array::kIsArray;
  field.element_size = sizeof(Element);
  field.save = [member](const void* object, std::size_t index, StreamWriter& out) {
    detail::save_scalar<Element>(Array::at(static_cast<const T*>(object)->*member, index), out);
  };
  field.load = [member](void* object, std::size_t index, StreamReader& in) -> Status {
    HANDOVER_ASSIGN(Array::at(static_cast<T*>(object)->*member, index), detail::load_scalar<Element>(in));
    return {};
  };
  return *this;
}

template <class T>
template <class M>
Describe<T>& Describe<T>::equal(std::string name, M T::* member, Versions versions) {
  using Array = detail::ArrayOf<M>;
  using Element = typename Array::Element;
  field(std::move(name), member, versions);
  Field& added = description_->fields.back();
  added.type = detail::equal_type_name<Element>();
  added.load = [member](void* object, std::size_t index, StreamReader& in) -> Status {
    HANDOVER_ASSIGN(Element theirs, detail::load_scalar<Element>(in));
    const Element ours = Array::at(static_cast<T*>(object)->*member, index);
    if (theirs != ours) return fail(Errc::mismatch, "the stream has {}, this side has {}", theirs, ours);
    return {};
  };
  return *this;
}

template <class T>
template <std::size_t N>
Describe<T>& Describe<T>::buffer(std::string name, std::array<std::byte, N> T::* member, Versions versions) {
  Field& field = add(std::move(name), "buffer", versions);
  field.element_size = N;
  field.save = [member](const void* object, std::size_t, StreamWriter& out) {
    out.bytes(static_cast<const T*>(object)->*member);
  };
  field.load = [member](void* object, std::size_t, StreamReader& in) {
    return in.bytes(static_cast<T*>(object)->*member);
  };
  return *this;
}

template <class T>
template <class Count>
Describe<T>& Describe<T>::sized_buffer(std::string name, std::vector<std::byte> T::* member, Count T::* count,
                                       std::size_t limit, Versions versions) {
  Field& field = add(name, "buffer", versions);
  field.save = [member, count, name, owner = description_->name](const void* object, std::size_t,
                                                                 StreamWriter& out) {
    const T& self = *static_cast<const T*>(object);
    if (std::cmp_not_equal((self.*member).size(), self.*count))
      detail::misuse(owner, name, "its size field says otherwise");
    out.bytes(self.*member);
  };
  field.load = [member, count, limit](void* object, std::size_t, StreamReader& in) -> Status {
    T& self = *static_cast<T*>(object);
    HANDOVER_ASSIGN(auto size, detail::checked_count(self.*count, limit));
    return detail::load_bytes(self.*member, size, in);
  };
  return *this;
}

template <class T>
Describe<T>& Describe<T>::fixed_text(std::string name, std::string T::* member, std::size_t n,
                                     Versions versions) {
  Field& field = add(name, "buffer", versions);
  field.element_size = n;
  field.save = [member, n, name, owner = description_->name](const void* object, std::size_t,
                                                             StreamWriter& out) {
    const std::string& text = static_cast<const T*>(object)->*member;
    if (text.size() >= n || text.find('\0') != std::string::npos)
      detail::misuse(owner, name, "the text does not fit");
    detail::save_padded_text(text, n, out);
  };
  field.load = [member, n](void* object, std::size_t, StreamReader& in) -> Status {
    HANDOVER_ASSIGN(static_cast<T*>(object)->*member, detail::load_padded_text(n, in));
    return {};
  };
  return *this;
}

template <class T>
Describe<T>& Describe<T>::unused(std::size_t n, Versions versions) {
  Field& field = add("unused", "unused_buffer", versions);
  field.element_size = n;
  field.save = [n](const void*, std::size_t, StreamWriter& out) { out.zeros(n); };
  field.load = [n](void*, std::size_t, StreamReader& in) { return in.skip(n); };
  return *this;
}

template <class T>
template <class M>
Describe<T>& Describe<T>::structure(std::string name, M T::* member,
                                    std::shared_ptr<const Description> nested, Versions versions) {
  using Array = detail::ArrayOf<M>;
  Field& field = add(std::move(name), "struct", versions);
  field.count = Array::kCount;
  field.is_array = Array::kIsArray;
  field.element = [member](const void* object, std::size_t index) -> const void* {
    return &Array::at(static_cast<const T*>(object)->*member, index);
  };
  nest(field, std::move(nested));
  return *this;
}

template <class T>
template <class M, class Count>
Describe<T>& Describe<T>::sized_array(std::string name, std::vector<M> T::* member, Count T::* count,
                                      std::size_t limit, std::shared_ptr<const Description> nested,
                                      Versions versions) {
  Field& field = add(name, "struct", versions);
  field.is_array = true;
  field.dynamic_count = [member, count, name, owner = description_->name](const void* object) {
    const T& self = *static_cast<const T*>(object);
    if (std::cmp_not_equal((self.*member).size(), self.*count))
      detail::misuse(owner, name, "its count field says otherwise");
    return (self.*member).size();
  };
  field.make_room = [member, count, limit](void* object) -> Status {
    T& self = *static_cast<T*>(object);
    HANDOVER_ASSIGN(auto size, detail::checked_count(self.*count, limit));
    (self.*member).resize(size);
    return {};
  };
  field.element = [member](const void* object, std::size_t index) -> const void* {
    return &(static_cast<const T*>(object)->*member)[index];
  };
  nest(field, std::move(nested));
  return *this;
}

template <class T>
void Describe<T>::nest(Field& field, std::shared_ptr<const Description> nested) {
  field.nested = nested;
  field.save = [nested, element = field.element](const void* object, std::size_t index, StreamWriter& out) {
    nested->save(element(object, index), out);
  };
  field.load = [nested, element = field.element](void* object, std::size_t index, StreamReader& in) {
    return nested->load(const_cast<void*>(element(object, index)), in, nested->version);
  };
}

template <class T>
Describe<T>& Describe<T>::subsection(std::shared_ptr<const Description> description,
                                     std::function<bool(const T&)> needed) {
  if (!description->name.starts_with(description_->name + "/") || description->name.size() > 255)
    detail::misuse(description_->name, description->name,
                   "a subsection's name begins with its owner's and a slash");
  description_->subsections.push_back(
      {std::move(description),
       [needed = std::move(needed)](const void* object) { return needed(*static_cast<const T*>(object)); }});
  return *this;
}

template <class T>
Describe<T>& Describe<T>::pre_save(std::function<void(T&)> hook) {
  description_->pre_save = [hook = std::move(hook)](void* object) { hook(*static_cast<T*>(object)); };
  return *this;
}

template <class T>
Describe<T>& Describe<T>::post_load(std::function<Status(T&, std::uint32_t)> hook) {
  description_->post_load = [hook = std::move(hook)](void* object, std::uint32_t version) {
    return hook(*static_cast<T*>(object), version);
  };
  return *this;
}

}  // namespace handover::vmstate
