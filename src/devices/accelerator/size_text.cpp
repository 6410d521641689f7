#include "devices/accelerator/size_text.h"

#include <fmt/core.h>

#include "handover/base/units.h"

namespace handover::accelerator {

std::string size_text(std::uint64_t bytes) {
  struct Unit {
    std::uint64_t size;
    const char* name;
  };
  for (const Unit& unit : {Unit{GiB, "GiB"}, Unit{MiB, "MiB"}, Unit{KiB, "KiB"}})
    if (bytes != 0 && bytes % unit.size == 0) return fmt::format("{} {}", bytes / unit.size, unit.name);
  return fmt::format("{} bytes", bytes);
}

}  // namespace handover::accelerator
