#pragma once

#include <memory>
#include <string>

#include "handover/memory/guest_memory.h"
#include "handover/vfio/device.h"

namespace handover::cli {

/// A device with the memory that it was opened with: one page, which nothing maps.
struct OpenDevice {
  std::unique_ptr<GuestMemory> memory;  // outlives the device
  std::unique_ptr<vfio::Device> device;
};

/// Opens the device of a target such as vfio-user:/run/accel.sock, and leaves it in the state in which the
/// last one who had it left it: a device that was given up to another place must not run again because
/// somebody looks at it.
Result<OpenDevice> open_as_found(const std::string& text);

}  // namespace handover::cli
