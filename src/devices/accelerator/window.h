#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "handover/base/mapping.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

namespace handover::accelerator {

/// The memory behind BAR 2, in a memfd that clients map.
///
/// Clients store into it without the device knowing, so its content is always part of the stopped state.
class Window {
 public:
  static Result<Window> create();

  int fd() const { return fd_.get(); }
  std::span<std::byte> bytes() const { return mapping_.span(); }
  void clear();

 private:
  Window(UniqueFd fd, Mapping mapping) : fd_(std::move(fd)), mapping_(std::move(mapping)) {}
  UniqueFd fd_;
  Mapping mapping_;
};

}  // namespace handover::accelerator
