#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <nlohmann/json.hpp>

#include "handover/stream/vmstate.h"
#include "support/memory_channel.h"

namespace handover::vmstate {
namespace {

using test::MemoryChannel;

struct Queue {
  std::uint16_t head = 0;
  std::int8_t step = 0;
  std::uint8_t used = 0;
  std::vector<std::byte> ring;
  std::uint32_t credit = 0;  // in a subsection
  bool operator==(const Queue&) const = default;
};

struct Device {
  bool enabled = false;
  std::int32_t offset = 0;
  std::int64_t clock = 0;
  std::array<std::uint32_t, 5> registers{};
  std::array<std::byte, 7> serial{};
  std::string mode;
  std::uint64_t features = 0;
  Queue admin;
  std::array<Queue, 2> pair;
  std::uint32_t queue_count = 0;
  std::vector<Queue> queues;
  std::uint16_t error_size = 0;  // in a subsection
  std::vector<std::byte> error;  // in a subsection
  bool operator==(const Device&) const = default;
};

std::shared_ptr<const Description> queue_description() {
  return Describe<Queue>("queue", 1)
      .field("head", &Queue::head)
      .field("step", &Queue::step)
      .field("used", &Queue::used)
      .sized_buffer("ring", &Queue::ring, &Queue::used, 255)
      .subsection(Describe<Queue>("queue/credit", 3).field("credit", &Queue::credit).done(),
                  [](const Queue& queue) { return queue.credit != 0; })
      .done();
}

std::shared_ptr<const Description> device_description() {
  return Describe<Device>("device", 4, 2)
      .field("enabled", &Device::enabled)
      .unused(3)
      .field("offset", &Device::offset)
      .field("clock", &Device::clock)
      .field("registers", &Device::registers)
      .buffer("serial", &Device::serial)
      .fixed_text("mode", &Device::mode, 9)
      .unused(1)
      .equal("features", &Device::features)
      .structure("admin", &Device::admin, queue_description())
      .structure("pair", &Device::pair, queue_description())
      .field("queue_count", &Device::queue_count)
      .sized_array("queues", &Device::queues, &Device::queue_count, 100, queue_description())
      .subsection(Describe<Device>("device/error", 1)
                      .field("size", &Device::error_size)
                      .sized_buffer("error", &Device::error, &Device::error_size, 1000)
                      .done(),
                  [](const Device& device) { return !device.error.empty(); })
      .done();
}

std::vector<std::byte> any_bytes(std::size_t most) {
  std::vector<std::byte> bytes(*rc::gen::inRange<std::size_t>(0, most + 1));
  for (auto& one : bytes)
    one = static_cast<std::byte>(*rc::gen::arbitrary<std::uint8_t>());
  return bytes;
}

Queue any_queue() {
  Queue queue;
  queue.head = *rc::gen::arbitrary<std::uint16_t>();
  queue.step = *rc::gen::arbitrary<std::int8_t>();
  queue.ring = any_bytes(12);
  queue.used = static_cast<std::uint8_t>(queue.ring.size());
  if (*rc::gen::arbitrary<bool>()) queue.credit = *rc::gen::arbitrary<std::uint32_t>();
  return queue;
}

Device any_device() {
  Device device;
  device.enabled = *rc::gen::arbitrary<bool>();
  device.offset = *rc::gen::arbitrary<std::int32_t>();
  device.clock = *rc::gen::arbitrary<std::int64_t>();
  for (auto& one : device.registers)
    one = *rc::gen::arbitrary<std::uint32_t>();
  for (auto& one : device.serial)
    one = static_cast<std::byte>(*rc::gen::arbitrary<std::uint8_t>());
  device.mode = (*rc::gen::container<std::string>(rc::gen::inRange('a', 'z'))).substr(0, 8);
  device.features = *rc::gen::arbitrary<std::uint64_t>();
  device.admin = any_queue();
  for (auto& one : device.pair)
    one = any_queue();
  device.queue_count = *rc::gen::inRange(0u, 5u);
  for (std::uint32_t i = 0; i < device.queue_count; ++i)
    device.queues.push_back(any_queue());
  device.error = any_bytes(20);
  device.error_size = static_cast<std::uint16_t>(device.error.size());
  return device;
}

std::vector<std::byte> saved(const Description& description, const Device& device) {
  MemoryChannel channel;
  StreamWriter out(channel);
  description.save(&device, out);
  RC_ASSERT(out.flush().has_value());
  return channel.output;
}

// The rule of qemu-stream 2.8 by which a tool finds the end of a body.
std::uint64_t body_size(const nlohmann::ordered_json& description) {
  std::uint64_t size = 0;
  for (const auto& field : description["fields"])
    size += field["size"].get<std::uint64_t>() * field.value("array_len", std::uint64_t{1});
  if (description.contains("subsections"))
    for (const auto& one : description["subsections"])
      size += 2 + one["vmsd_name"].get<std::string>().size() + 4 + body_size(one);
  return size;
}

void check_structures(const nlohmann::ordered_json& description) {
  for (const auto& field : description["fields"]) {
    if (!field.contains("struct")) continue;
    RC_ASSERT(field["size"].get<std::uint64_t>() == body_size(field["struct"]));
    check_structures(field["struct"]);
  }
}

RC_GTEST_PROP(VmstateProperty, WhatIsSavedLoadsToTheSameObject, ()) {
  const auto description = device_description();
  const Device device = any_device();
  MemoryChannel channel(saved(*description, device), *rc::gen::inRange<std::size_t>(1, 50));
  StreamReader in(channel);
  Device got;
  got.features = device.features;
  got.queues.resize(3);
  auto status = description->load(&got, in, 4);
  if (!status) RC_FAIL(status.error().to_string());
  RC_ASSERT(in.at_end().value());
  // What was not sent keeps its value.
  if (device.error.empty()) RC_ASSERT(got.error.empty());
  RC_ASSERT(got == device);
}

RC_GTEST_PROP(VmstateProperty, DescribedSizesAreTheBytesWritten, ()) {
  const auto description = device_description();
  const Device device = any_device();
  const auto json = description->describe(&device);
  RC_ASSERT(body_size(json) == saved(*description, device).size());
  check_structures(json);
}

RC_GTEST_PROP(VmstateProperty, DamagedBytesLoadOrFailInWords, ()) {
  const auto description = device_description();
  const Device device = any_device();
  auto bytes = saved(*description, device);
  const auto changes = *rc::gen::inRange(1, 4);
  for (int i = 0; i < changes; ++i)
    bytes[*rc::gen::inRange<std::size_t>(0, bytes.size())] =
        static_cast<std::byte>(*rc::gen::arbitrary<std::uint8_t>());
  bytes.resize(*rc::gen::inRange<std::size_t>(0, bytes.size() + 1));
  MemoryChannel channel(bytes);
  StreamReader in(channel);
  Device got;
  got.features = device.features;
  auto status = description->load(&got, in, 4);
  RC_ASSERT(got.queues.size() <= 100u);
  if (!status) RC_ASSERT(status.error().to_string().starts_with("device"));
}

}  // namespace
}  // namespace handover::vmstate
