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
          .post_load([](GlobalState& self, std::uint32_t) -> Status {
            if (self.run_state()) return {};
            return fail(Errc::protocol,
                        "the stream says that the machine was in run state '{}', which there is not",
                        self.name_);
          })
          .pre_save([](GlobalState& self) { self.size_ = static_cast<std::uint32_t>(self.name_.size() + 1); })
          .done();
  return description.get();
}

}  // namespace handover
