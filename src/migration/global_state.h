#pragma once

#include <string>

#include "handover/machine/run_state.h"
#include "handover/stream/migratable.h"

namespace handover {

/// Section `globalstate`, the last one: tells the destination whether the source ran.
class GlobalState final : public StateItem {
 public:
  GlobalState() = default;
  explicit GlobalState(RunState state) : name_(to_string(state)) {}

  std::string section_name() const override { return "globalstate"; }
  const vmstate::Description* description() const override;
  /// Empty if the stream had no such section.
  std::optional<RunState> run_state() const { return run_state_from(name_); }

 protected:
  void* mutable_object() const override { return const_cast<GlobalState*>(this); }

 private:
  std::uint32_t size_ = 0;  // of the name with its NUL, as QEMU writes it
  std::string name_;
  std::uint8_t has_vm_was_suspended_ = 1;
  std::uint8_t vm_was_suspended_ = 0;
};

}  // namespace handover
