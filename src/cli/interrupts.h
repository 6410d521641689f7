#pragma once

#include <signal.h>

#include <thread>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

namespace handover::cli {

/// Ctrl-C and SIGTERM as wishes instead of an end, while this lives.
///
/// The first cancels first(), every later one again().  Made before other threads, which inherit the signal
/// mask; the mask comes back when it goes.
class Interrupts {
 public:
  static Result<Interrupts> watch();
  Interrupts(Interrupts&&) = default;
  Interrupts& operator=(Interrupts&&) = delete;
  ~Interrupts();

  CancelToken first() const { return first_.token(); }
  CancelToken again() const { return again_.token(); }

 private:
  Interrupts() = default;

  sigset_t before_{};
  CancelSource first_;
  CancelSource again_;
  CancelSource end_;
  std::thread thread_;
};

}  // namespace handover::cli
