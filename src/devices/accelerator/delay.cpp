#include "devices/accelerator/delay.h"

#include <memory>

#include <asio/steady_timer.hpp>

namespace handover::accelerator {

void after(EventLoop& loop, std::chrono::nanoseconds time, std::function<void()> work) {
  auto timer = std::make_shared<asio::steady_timer>(loop.context(), time);
  timer->async_wait([timer, work = std::move(work)](asio::error_code error) {
    if (!error) work();
  });
}

}  // namespace handover::accelerator
