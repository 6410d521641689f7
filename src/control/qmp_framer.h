#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "handover/base/result.h"

namespace handover::control {

/// Cuts a stream of bytes into JSON texts, without looking further into them.
///
/// A text ends where its outermost bracket closes, or at the end of its line, whichever comes first; so
/// commands may be split over reads, and several may come in one.  After a text that is no JSON the next
/// line starts afresh.  Memory is bounded by the longest text allowed and one append().  One thread.
class QmpFramer {
 public:
  explicit QmpFramer(std::size_t max_text) : max_text_(max_text) {}

  void append(std::string_view bytes);

  /// The next text that is complete; nothing if more bytes are needed.  A text that is too long is
  /// reported once, with Errc::limit, and skipped to the end of its line.
  std::optional<Result<std::string>> next();

 private:
  std::string take();
  bool ends_text(char c);

  std::size_t max_text_;
  std::string buffer_;
  std::size_t begin_ = 0;  // of the text being read
  std::size_t scan_ = 0;   // first byte not looked at
  std::size_t depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
  bool skipping_ = false;
};

}  // namespace handover::control
