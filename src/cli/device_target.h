#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/device.h"

namespace handover::cli {

/// A device as people name it on the command line: `KIND:WHERE`, e.g. vfio-user:/run/accel.sock or
/// vfio:0000:41:00.3.
struct DeviceTarget {
  enum class Kind {
    vfio_user,  ///< `path` is the server's socket
    vfio,       ///< of the kernel's VFIO; `path` is a vfio_kernel::KernelOptions::where
  };
  Kind kind = Kind::vfio_user;
  std::string path;

  /// What is said of an argument that names one.
  static constexpr const char* kHelp =
      "the device: vfio-user:/path/of/the.sock, or vfio:WHERE with 0000:41:00.3, a folder in /sys, "
      "/dev/vfio/devices/vfioN, or fd=N[,iommufd=M], which are open already";

  /// A failure says which kinds there are.
  static Result<DeviceTarget> parse(std::string_view text);
  std::string to_string() const;
};

struct OpenOptions {
  /// How long one answer may take before the device counts as lost.
  std::chrono::milliseconds timeout{30000};
  /// The device stays in the state in which another client left it; otherwise it is set running.
  bool keep_state = false;
};

/// Opens it; its id is the target as it was typed.  `memory` serves DMA that goes by messages.  Cancelling
/// `cancel` loses the device.
Result<std::unique_ptr<vfio::Device>> open_target(const DeviceTarget& target, GuestMemory& memory,
                                                  CancelToken cancel, const OpenOptions& options = {});

}  // namespace handover::cli
