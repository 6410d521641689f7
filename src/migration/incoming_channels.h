#pragma once

#include <memory>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/channel/channel.h"
#include "migration/multifd_receiver.h"

namespace handover {

/// The connections of one incoming migration, in whatever order they come.
///
/// A connection says by its first bytes what it is.  The main one decides how many others there are (the
/// section `handover-channels`), so the destination need not be told.  Load thread.
class IncomingChannels {
 public:
  /// `listener` may be null: then `main` is all there is.
  IncomingChannels(std::shared_ptr<Listener> listener, CancelToken cancel)
      : listener_(std::move(listener)), cancel_(std::move(cancel)) {}

  /// Waits for the main channel; others that come before it are kept.
  Result<MultifdReceiver::Lane> accept_main();
  /// The `count` multifd channels, by number.  The source has connected them before it wrote the first byte
  /// of the main one, so they do not take long.
  Result<std::vector<MultifdReceiver::Lane>> accept_multifd(std::size_t count);

 private:
  Result<MultifdReceiver::Lane> accept_one(Deadline deadline);

  std::shared_ptr<Listener> listener_;
  CancelToken cancel_;
  std::vector<MultifdReceiver::Lane> early_;
};

}  // namespace handover
