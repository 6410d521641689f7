#pragma once

#include <chrono>
#include <functional>

#include "handover/base/event_loop.h"

namespace handover::accelerator {

/// Runs `work` on the loop once the time has passed; never, if the loop ends before.
void after(EventLoop& loop, std::chrono::nanoseconds time, std::function<void()> work);

}  // namespace handover::accelerator
