// A stream that ends too early: what of the machine is not in it.

#include "migration/destination_impl.h"

namespace handover {

Error Destination::Impl::explain_end(Error why) const {
  // A peer that went away is another matter; of a file nothing more will come.
  if (why.code() != Errc::closed || channel->two_way()) return why;
  std::string missing;
  for (auto* item : machine.migratables()) {
    if (item->is_live() && !ended.contains(item))
      missing += fmt::format("the end of `{}`, ", item->section_name());
    if (item->has_state() && !stated.contains(item))
      missing += fmt::format("the state of `{}`, ", item->section_name());
  }
  return std::move(why).with_context(
      fmt::format("the stream is torn; missing: {}its end-of-file mark", missing));
}

}  // namespace handover
