#include "control/qmp_framer.h"

namespace handover::control {

void QmpFramer::append(std::string_view bytes) {
  buffer_.erase(0, begin_);
  scan_ -= begin_;
  begin_ = 0;
  buffer_.append(bytes);
}

std::string QmpFramer::take() {
  auto text = buffer_.substr(begin_, scan_ - begin_);
  begin_ = scan_;
  depth_ = 0;
  in_string_ = escaped_ = false;
  return text;
}

bool QmpFramer::ends_text(char c) {
  if (c == '\n') return true;
  if (in_string_) {
    if (escaped_)
      escaped_ = false;
    else if (c == '\\')
      escaped_ = true;
    else if (c == '"')
      in_string_ = false;
    return false;
  }
  if (c == '"') in_string_ = true;
  if (c == '{' || c == '[') ++depth_;
  if ((c != '}' && c != ']') || depth_ == 0) return false;
  --depth_;
  return depth_ == 0;
}

std::optional<Result<std::string>> QmpFramer::next() {
  while (scan_ < buffer_.size()) {
    const char c = buffer_[scan_++];
    if (skipping_) {
      begin_ = scan_;
      if (c == '\n') skipping_ = false;
      continue;
    }
    const bool complete = ends_text(c);
    if (scan_ - begin_ > max_text_) {
      take();
      skipping_ = c != '\n';
      return fail(Errc::limit, "a command may be at most {} bytes long", max_text_);
    }
    if (!complete) continue;
    auto text = take();
    if (text.find_first_not_of(" \t\r\n") != std::string::npos) return text;
  }
  return std::nullopt;
}

}  // namespace handover::control
