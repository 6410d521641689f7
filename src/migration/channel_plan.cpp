#include "migration/channel_plan.h"

namespace handover {

const vmstate::Description* ChannelPlan::description() const {
  static const auto description =
      vmstate::Describe<ChannelPlan>("handover-channels", 1).field("multifd", &ChannelPlan::multifd_).done();
  return description.get();
}

}  // namespace handover
