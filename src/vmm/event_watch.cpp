#include "vmm/event_watch.h"

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>

namespace handover::vmm {

struct EventWatch::Impl : std::enable_shared_from_this<EventWatch::Impl> {
  Impl(EventLoop& loop, int eventfd, std::function<void()> on_ready)
      : descriptor(loop.context(), eventfd), ready(std::move(on_ready)) {}

  void arm() {
    descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                          [self = shared_from_this()](const std::error_code& failed) {
                            if (failed || self->closed) return;
                            self->ready();
                            self->arm();
                          });
  }

  asio::posix::stream_descriptor descriptor;
  std::function<void()> ready;
  bool closed = false;  // loop thread only
};

EventWatch::EventWatch(EventLoop& loop, int eventfd, std::function<void()> ready)
    : loop_(loop), impl_(std::make_shared<Impl>(loop, eventfd, std::move(ready))) {
  loop_.post([impl = impl_] { impl->arm(); });
}

EventWatch::~EventWatch() {
  loop_.call([impl = std::move(impl_)] {
    impl->closed = true;
    // The eventfd belongs to someone else; it leaves the loop here, not whenever the last handler goes.
    impl->descriptor.release();
    impl->ready = nullptr;
  });
}

}  // namespace handover::vmm
