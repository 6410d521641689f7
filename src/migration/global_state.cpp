#include "migration/global_state.h"

namespace handover {

const vmstate::Description* GlobalState::description() const {
  static const auto description =
      vmstate::Describe<GlobalState>("globalstate", 1)
          .field("size", &GlobalState::size_)
          .fixed_text("runstate", &GlobalState::name_, 32)
          .field("has_vm_was_suspended", &GlobalState::has_vm_was_suspended_)
          .field("vm_was_suspended", &GlobalState::vm_was_suspended_)
          .unused(66)
          .pre_save([](GlobalState& self) { self.size_ = static_cast<std::uint32_t>(self.name_.size() + 1); })
          .done();
  return description.get();
}

}  // namespace handover
