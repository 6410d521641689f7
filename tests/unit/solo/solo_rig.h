#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "handover/channel/memory_channel.h"
#include "handover/migration/destination.h"
#include "handover/migration/source.h"
#include "handover/solo/solo_machine.h"
#include "handover/vfio_user/client.h"
#include "handover/vfio_user/server.h"
#include "support/temp_folder.h"
#include "unit/vfio_user/toy_device.h"

namespace handover::solo::test {

using handover::test::TempFolder;
using vfio::DeviceState;
using Bytes = std::vector<std::byte>;
using Side = SoloOptions::Side;

/// A device behind a server, on a thread of its own.
template <class Model>
struct ServedModel {
  template <class... Arguments>
  explicit ServedModel(const std::string& socket_path, Arguments&&... arguments)
      : socket(socket_path), model(std::forward<Arguments>(arguments)...) {
    loop.start_thread();
    server = vfio_user::Server::create(loop, model, {.socket_path = socket}).value();
  }
  std::string socket;
  EventLoop loop{"device"};
  Model model;
  std::unique_ptr<vfio_user::Server> server;
};
using ServedToy = ServedModel<vfio_user::ToyDevice>;

/// A device that was opened, as it was found, and the machine around it.
struct Solo {
  Solo(const std::string& socket, const SoloOptions& options) {
    memory = GuestMemory::create(kPageSize).value();
    vfio_user::ClientOptions how;
    how.id = "toy";
    how.socket_path = socket;
    how.keep_state = true;
    device = vfio_user::connect(std::move(how), *memory, {}).value();
    made = SoloMachine::create(*device, *memory, options);
  }
  SoloMachine* operator->() { return made->get(); }
  SoloMachine& operator*() { return **made; }

  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<vfio::Device> device;
  Result<std::unique_ptr<SoloMachine>> made = fail(Errc::state, "not made yet");
};

inline Source::Options source_options(SoloMachine& machine) {
  Source::Options options;
  options.parameters = machine.parameters({.max_bandwidth = 0});
  return options;
}

inline Address file_address(const std::string& path) {
  Address address;
  address.kind = Address::Kind::file;
  address.path = path;
  return address;
}

inline Bytes read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// The stream of a device, which is left where a save leaves it: in STOP.
inline Bytes save(Solo& from) {
  const TempFolder folder;
  Source source(from->machine(), nullptr, source_options(*from));
  source.start(file_address(folder / "state"));
  EXPECT_EQ(source.wait(), MigrationStatus::completed) << source.statistics().error;
  return read_bytes(folder / "state");
}

struct Loaded {
  MigrationStatus status;
  std::string error;
};

inline Loaded load(Solo& into, std::span<const std::byte> stream, bool paused = false) {
  Destination::Options options;
  options.start_paused = paused;
  Destination destination(into->machine(), std::move(options));
  destination.start(std::make_unique<MemoryChannel>("the stream", stream));
  const auto status = destination.wait();
  return {status, destination.error()};
}

/// States as arcs, in order.
using Arcs = std::vector<std::pair<DeviceState, DeviceState>>;

inline std::vector<DeviceState> visited(SoloMachine& machine) {
  std::vector<DeviceState> all;
  for (const auto& step : machine.states().steps())
    all.push_back(step.state);
  return all;
}

inline Bytes content(std::uint64_t seed, std::size_t size = vfio_user::ToyDevice::kStateSize) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (auto& byte : bytes)
    byte = static_cast<std::byte>(random());
  return bytes;
}

}  // namespace handover::solo::test
