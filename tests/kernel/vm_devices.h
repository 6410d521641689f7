#pragma once

#include <cstdlib>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace handover {

/// The devices that the test VM has made for a program: `HANDOVER_MTTY` (with-mtty) names the folders of
/// mediated devices, `HANDOVER_EDU` (with-edu) PCI addresses.
inline std::vector<std::string> vm_devices(const char* variable) {
  const char* text = std::getenv(variable);
  std::istringstream words(text ? text : "");
  return {std::istream_iterator<std::string>(words), {}};
}

}  // namespace handover
