#pragma once

#include <functional>
#include <memory>

#include "handover/base/event_loop.h"
#include "handover/base/result.h"

namespace handover::vmm {

/// Calls `ready` on the loop's thread whenever an eventfd becomes readable, until destroyed.
///
/// `ready` reads the eventfd.  The destructor returns when no call is under way; it must not run on the
/// loop's thread while the loop is busy elsewhere, and the loop must be running.
class EventWatch {
 public:
  EventWatch(EventLoop& loop, int eventfd, std::function<void()> ready);
  ~EventWatch();
  EventWatch(const EventWatch&) = delete;
  EventWatch& operator=(const EventWatch&) = delete;

 private:
  struct Impl;
  EventLoop& loop_;
  std::shared_ptr<Impl> impl_;
};

}  // namespace handover::vmm
