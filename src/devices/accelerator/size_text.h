#pragma once

#include <cstdint>
#include <string>

namespace handover::accelerator {

/// A size for people, exact: "256 MiB", "16 GiB", "65 KiB", "4097 bytes".
std::string size_text(std::uint64_t bytes);

}  // namespace handover::accelerator
