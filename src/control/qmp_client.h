#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "control/qmp_framer.h"
#include "handover/base/cancel.h"
#include "handover/base/result.h"
#include "handover/base/unique_fd.h"

namespace handover::control {

struct QmpEvent {
  std::string name;
  nlohmann::json data;
  std::int64_t microseconds = 0;  ///< since the epoch, on the server's clock; 0 if it did not say
};

/// A blocking client of one QMP server, for the command line and for tests.  One thread.
///
/// An error that the server answered has Errc::state (GenericError) or Errc::unsupported (CommandNotFound);
/// every other code means that the connection is of no more use, except cancelled and timeout, after which
/// the client may be used again.
class QmpClient {
 public:
  /// Connects, reads the greeting and negotiates.
  static Result<QmpClient> connect(const std::string& path, const CancelToken& cancel,
                                   Deadline deadline = {});

  Result<nlohmann::json> execute(std::string_view command,
                                 nlohmann::json arguments = nlohmann::json::object(),
                                 const CancelToken& cancel = {}, Deadline deadline = {});

  /// The oldest event not taken yet; waits for one until the deadline, then returns nothing.
  Result<std::optional<QmpEvent>> next_event(const CancelToken& cancel, Deadline deadline);

 private:
  QmpClient(std::string path, UniqueFd fd);

  Result<nlohmann::json> read_message(const CancelToken& cancel, Deadline deadline);
  Status send(std::string_view line, const CancelToken& cancel, Deadline deadline);
  Status keep_event(const nlohmann::json& message);

  std::string path_;
  UniqueFd fd_;
  QmpFramer framer_;
  std::string unsent_;
  std::deque<QmpEvent> events_;
  std::uint64_t next_id_ = 1;
};

/// True for an error that the server answered, as opposed to a broken connection.
bool is_answer(const Error& error);

}  // namespace handover::control
