#pragma once

#include <cstdlib>
#include <cstring>
#include <span>
#include <type_traits>

#include "handover/memory/guest_memory.h"
#include "handover/memory/guest_race.h"

namespace handover::vmm::synthetic {

/// RAM as the program uses it: every address comes from a Layout, so all of it is there.
class GuestRam {
 public:
  explicit GuestRam(GuestMemory& memory) : memory_(memory) {}

  std::span<std::byte> view(Gpa at, std::uint64_t length) const {
    const auto bytes = memory_.at(at, length);
    if (bytes.empty()) std::abort();  // the layout was checked against this memory
    return bytes;
  }
  /// After the write through view().
  void written(Gpa at, std::uint64_t length) { memory_.mark_written(at, length); }

  template <class T>
    requires std::is_trivially_copyable_v<T>
  T load(Gpa at) const {
    T value;
    const auto from = view(at, sizeof(T));
    const GuestRace race;
    std::memcpy(&value, from.data(), sizeof(T));
    return value;
  }
  template <class T>
    requires std::is_trivially_copyable_v<T>
  void store(Gpa at, const T& value) {
    const auto to = view(at, sizeof(T));
    {
      const GuestRace race;
      std::memcpy(to.data(), &value, sizeof(T));
    }
    written(at, sizeof(T));
  }

 private:
  GuestMemory& memory_;
};

}  // namespace handover::vmm::synthetic
