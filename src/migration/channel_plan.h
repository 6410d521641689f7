#pragma once

#include "handover/stream/migratable.h"

namespace handover {

/// How many multifd channels a migration has: the early section `handover-channels`, written only if there
/// are any, so that a destination needs no setting of its own.
class ChannelPlan final : public StateItem {
 public:
  explicit ChannelPlan(std::uint32_t multifd = 0) : multifd_(multifd) {}

  std::string section_name() const override { return "handover-channels"; }
  bool is_early() const override { return true; }
  const vmstate::Description* description() const override;

  std::uint32_t multifd() const { return multifd_; }

 protected:
  void* mutable_object() const override { return const_cast<ChannelPlan*>(this); }

 private:
  std::uint32_t multifd_;
};

}  // namespace handover
