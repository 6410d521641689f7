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

/// An accelerator behind a vfio-user server, on a thread of its own.
struct ServedAccelerator {
  explicit ServedAccelerator(const std::string& socket, std::uint64_t memory = 2 * MiB)
      : model(accelerator::Accelerator::create({.name = "accel", .memory_size = memory}).value()) {
    loop.start_thread();
    server = vfio_user::Server::create(loop, *model, {.socket_path = socket}).value();
  }
  EventLoop loop{"device"};
  std::unique_ptr<accelerator::Accelerator> model;
  std::unique_ptr<vfio_user::Server> server;
};

/// A machine with its device servers.
struct ServedVm {
  ServedVm(std::size_t devices, bool incoming, vmm::GuestOptions guest, std::uint64_t memory = 32 * MiB,
           std::uint64_t device_memory = 2 * MiB) {
    vmm::VmConfig config{.memory = memory, .devices = {}, .guest = guest, .incoming = incoming};
    for (std::size_t i = 0; i < devices; ++i) {
      const std::string id = "accel" + std::to_string(i);
      servers.push_back(std::make_unique<ServedAccelerator>(folder.file(id), device_memory));
      config.devices.push_back({id, folder.file(id)});
    }
    vm = vmm::Vm::create(config).value();
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

}  // namespace handover::test
