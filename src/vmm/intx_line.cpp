#include "vmm/intx_line.h"

#include <utility>

#include "vmm/pci_bus.h"

namespace handover::vmm {

void IntxLine::deliver() {
  if (level_ && !disabled_ && !frozen_) sink_.message(kMessageBase, lines::kLineVector + slot_);
}

void IntxLine::raise() {
  std::lock_guard lock(mutex_);
  level_ = true;
  deliver();
}

bool IntxLine::lower() {
  std::lock_guard lock(mutex_);
  return std::exchange(level_, false);
}

void IntxLine::set_disabled(bool disabled) {
  std::lock_guard lock(mutex_);
  if (std::exchange(disabled_, disabled) != disabled) deliver();
}

void IntxLine::freeze() {
  std::lock_guard lock(mutex_);
  frozen_ = true;
}

void IntxLine::thaw() {
  std::lock_guard lock(mutex_);
  frozen_ = false;
  deliver();
}

bool IntxLine::level() const {
  std::lock_guard lock(mutex_);
  return level_;
}

void IntxLine::restore(bool level) {
  std::lock_guard lock(mutex_);
  level_ = level;
}

}  // namespace handover::vmm
