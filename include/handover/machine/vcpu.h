#pragma once

#include <functional>
#include <string>

#include "handover/stream/migratable.h"

namespace handover {

/// One virtual CPU.  Its registers are its Migratable.
///
/// resume(), pause() and panic handlers are called by the machine's thread; the CPU runs on its own.
class Vcpu {
 public:
  virtual ~Vcpu() = default;

  virtual std::string name() const = 0;
  /// Lets it run.  It has its thread already.
  virtual void resume() = 0;
  /// Stops it at a safe point: returns when it touches neither memory nor devices any more, with its
  /// registers complete.
  virtual void pause() = 0;
  /// Its registers, as a section of the stream; read and written only while paused.
  virtual Migratable& state() = 0;
  /// Called on the vCPU's thread when the guest finds itself broken; the vCPU has stopped by itself.
  virtual void on_panic(std::function<void(std::string reason)> handler) = 0;
};

}  // namespace handover
