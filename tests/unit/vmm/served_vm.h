#pragma once

#include <sys/socket.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "devices/accelerator/accelerator.h"
#include "handover/migration/destination.h"
#include "handover/migration/source.h"
#include "handover/vfio_user/server.h"
#include "handover/vmm/vm.h"
#include "unit/vmm/tuned_model.h"

namespace handover::test {

/// A folder that goes away with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "handover-vm-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline constexpr std::uint64_t kAllMigrationFeatures =
    vfio::kMigrationStopCopy | vfio::kMigrationP2p | vfio::kMigrationPreCopy;

/// How a served accelerator differs from the one that `handover serve` has.
struct ServedOptions {
  std::uint64_t memory = 2 * MiB;
  std::uint64_t features = kAllMigrationFeatures;
  std::string name = "accel";
  TransitionLog* log = nullptr;
  vfio_user::ServerOptions served{};  ///< but for the socket
  vfio::DirtyTrackingOptions dirty_tracking{};
};

/// An accelerator behind a vfio-user server, on a thread of its own.
struct ServedAccelerator {
  explicit ServedAccelerator(const std::string& socket, const ServedOptions& options = {})
      : model(
            accelerator::Accelerator::create({.name = options.name, .memory_size = options.memory}).value()),
        tuned(*model, options.name, options.features, options.log) {
    loop.start_thread();
    auto served = options.served;
    served.socket_path = socket;
    server = vfio_user::Server::create(loop, tuned, served).value();
  }
  EventLoop loop{"device"};
  std::unique_ptr<accelerator::Accelerator> model;
  TunedModel tuned;
  std::unique_ptr<vfio_user::Server> server;
};

/// A machine with its device servers.
struct ServedVm {
  ServedVm(std::size_t devices, bool incoming, const vmm::GuestOptions& guest,
           std::uint64_t memory = 32 * MiB, std::uint64_t device_memory = 2 * MiB,
           const vfio_user::ServerOptions& served = {})
      : ServedVm(std::vector<ServedOptions>(devices, {.memory = device_memory, .served = served}),
                 {.memory = memory, .devices = {}, .guest = guest, .incoming = incoming}) {}
  /// One device for each of `devices`; accel0 and so on.
  ServedVm(const std::vector<ServedOptions>& devices, vmm::VmConfig config) {
    for (const auto& options : devices)
      config.devices.push_back(serve(options));
    vm = vmm::Vm::create(config).value();
  }
  /// A further server; what plugs its device.
  vmm::DeviceOptions serve(ServedOptions options = {}) {
    const std::string id = "accel" + std::to_string(servers.size());
    options.name = id;
    servers.push_back(std::make_unique<ServedAccelerator>(folder.file(id), options));
    return {.id = id, .socket = folder.file(id), .dirty_tracking = options.dirty_tracking};
  }
  Status start() {
    return vm->loop().call([this] { return vm->machine().start(); });
  }
  template <class Condition>
  bool wait_for(Condition condition) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(3);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }
  bool do_jobs(std::uint64_t count) const {
    const std::uint64_t end = vm->guest().jobs_completed + count;
    return wait_for([&] { return vm->guest().jobs_completed >= end || !vm->guest().panic.empty(); });
  }

  TemporaryFolder folder;
  std::vector<std::unique_ptr<ServedAccelerator>> servers;
  std::unique_ptr<vmm::Vm> vm;
};

struct ChannelPair {
  ChannelPair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
      throw std::runtime_error("socketpair");
    first = adopt_channel(UniqueFd(fds[0]), "source end").value();
    second = adopt_channel(UniqueFd(fds[1]), "destination end").value();
  }
  std::unique_ptr<Channel> first, second;
};

struct Moved {
  MigrationStatus source, destination;
  Statistics figures;
  std::string error;  ///< of both sides
};

/// One migration between two machines, with a downtime limit that any host keeps.
inline Moved migrate(ServedVm& source, ServedVm& destination) {
  ChannelPair channels;
  Destination incoming(destination.vm->machine(), {});
  incoming.start(std::move(channels.second));
  Source::Options options;
  options.parameters.downtime_limit_ms = 60'000;
  options.parameters.max_bandwidth = 0;
  Source outgoing(source.vm->machine(), &source.vm->ram(), options);
  outgoing.start(std::move(channels.first));
  const auto left = outgoing.wait();
  const auto arrived = incoming.wait();
  auto figures = outgoing.statistics();
  auto error = figures.error + " / " + incoming.error();
  return {left, arrived, std::move(figures), std::move(error)};
}

}  // namespace handover::test
