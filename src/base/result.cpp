#include "handover/base/result.h"

#include <cstring>
#include <ranges>

namespace handover {

std::string Error::to_string() const {
  std::string text;
  for (const auto& part : chain_ | std::views::reverse) {
    if (!text.empty()) text += ": ";
    text += part;
  }
  return text;
}

std::string errno_text(int err) {
  char buffer[128];
  return strerror_r(err, buffer, sizeof buffer);
}

}  // namespace handover
