#include "handover/vfio_user/server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <future>

#include "handover/base/log.h"
#include "vfio_user/server/session.h"
#include "vfio_user/transport/unix_socket.h"

namespace handover::vfio_user {
namespace {

constexpr std::uint32_t kMaxTransfer = 64 * MiB;  // QEMU accepts no more
constexpr std::uint32_t kMaxDmaMaps = 65535;      // QEMU accepts no more
constexpr std::chrono::milliseconds kAcceptRetry{100};

Status check_options(const ServerOptions& options) {
  if (options.max_data_xfer_size < kPageSize || options.max_data_xfer_size > kMaxTransfer)
    return fail(Errc::invalid_argument, "max_data_xfer_size is {}; {} to {} are possible",
                options.max_data_xfer_size, kPageSize, kMaxTransfer);
  if (options.max_dma_maps == 0 || options.max_dma_maps > kMaxDmaMaps)
    return fail(Errc::invalid_argument, "max_dma_maps is {}; 1 to {} are possible", options.max_dma_maps,
                kMaxDmaMaps);
  if (!(options.migration_features_mask & vfio::kMigrationStopCopy))
    return fail(
        Errc::invalid_argument,
        "migration_features_mask {:#x} leaves no stop-copy; a device that cannot migrate is served with "
        "MigrationInterface::none",
        options.migration_features_mask);
  if (options.v1_data_size < kPageSize || options.v1_data_size > kMaxTransfer ||
      options.v1_data_size % kPageSize != 0)
    return fail(Errc::invalid_argument, "v1_data_size is {}; whole pages from {} to {} are possible",
                options.v1_data_size, kPageSize, kMaxTransfer);
  return {};
}

// Accepts one client after the other.  Everything runs on the loop.
class Acceptor : public std::enable_shared_from_this<Acceptor> {
 public:
  Acceptor(EventLoop& loop, DeviceModel& model, ServerOptions options, UniqueFd listener)
      : host_(loop, model, std::move(options)),
        listener_(loop.context(), listener.release()),
        retry_(loop.context()) {}

  Host& host() { return host_; }
  bool connected() const { return connected_.load(std::memory_order_relaxed); }

  void accept() {
    if (stopped_) return finish();
    listener_.async_wait(asio::posix::descriptor_base::wait_read,
                         [self = shared_from_this()](asio::error_code error) {
                           if (error || self->stopped_) return;
                           self->accepted();
                         });
  }

  // `done` runs when no client is there and the model has nothing to do any more.
  void stop(std::function<void()> done) {
    stopped_ = std::move(done);
    asio::error_code ignored;
    listener_.close(ignored);
    retry_.cancel();
    ::unlink(host_.options.socket_path.c_str());
    if (session_) return session_->close("the server ends");
    if (!connected_) finish();
  }

 private:
  void accepted() {
    UniqueFd client(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return accept();
      log::warn("device `{}`: cannot accept a client: {}", host_.spec.name, errno_text(errno));
      retry_.expires_after(kAcceptRetry);
      retry_.async_wait([self = shared_from_this()](asio::error_code error) {
        if (!error) self->accept();
      });
      return;
    }
    widen(client);
    connected_ = true;
    session_ = std::make_shared<Session>(host_, std::move(client));
    session_->start([weak = weak_from_this()] {
      if (auto self = weak.lock()) self->host_.loop.post([self] { self->client_gone(); });
    });
  }

  // The device keeps its state, but no session of a migration, and nothing of the client's.
  void client_gone() {
    session_.reset();
    host_.walker->abandon([self = shared_from_this()] {
      self->host_.log.stop();
      self->host_.model.disconnected(completion_on(self->host_.loop, [self](Status status) {
        if (!status)
          log::error("device `{}` after its client went: {}", self->host_.spec.name,
                     status.error().to_string());
        self->host_.table.clear();
        self->host_.irqs.clear();
        self->connected_ = false;
        self->accept();
      }));
    });
  }

  void finish() {
    if (stopped_) std::exchange(stopped_, [] {})();
  }

  Host host_;
  asio::posix::stream_descriptor listener_;
  asio::steady_timer retry_;
  std::shared_ptr<Session> session_;
  std::atomic<bool> connected_{false};
  std::function<void()> stopped_;
};

}  // namespace

struct Server::Impl {
  std::shared_ptr<Acceptor> acceptor;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
}

Result<std::unique_ptr<Server>> Server::create(EventLoop& loop, DeviceModel& model, ServerOptions options) {
  const auto& name = model.spec().name;
  HANDOVER_TRY_CONTEXT(check_options(options), "cannot serve device `{}`", name);
  HANDOVER_ASSIGN_CONTEXT(auto listener, listen_unix(options.socket_path), "cannot serve device `{}`", name);
  auto impl = std::make_unique<Impl>();
  impl->acceptor = std::make_shared<Acceptor>(loop, model, std::move(options), std::move(listener));
  model.attach(impl->acceptor->host().bus);
  loop.post([acceptor = impl->acceptor] { acceptor->accept(); });
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::~Server() {
  const auto acceptor = impl_->acceptor;
  // Shared: the loop may still be inside set_value() when this thread goes on.
  const auto stopped = std::make_shared<std::promise<void>>();
  acceptor->host().loop.post([acceptor, stopped] { acceptor->stop([stopped] { stopped->set_value(); }); });
  stopped->get_future().wait();
}

bool Server::client_connected() const {
  return impl_->acceptor->connected();
}

std::uint64_t Server::dma_faults() const {
  return impl_->acceptor->host().bus.faults();
}

vfio::DeviceState Server::device_state() const {
  return impl_->acceptor->host().walker->state();
}

}  // namespace handover::vfio_user
