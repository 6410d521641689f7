#include "handover/migration/blockers.h"

#include <algorithm>

namespace handover {

Blockers::Hold& Blockers::Hold::operator=(Hold&& other) noexcept {
  if (this != &other) {
    release();
    owner_ = std::exchange(other.owner_, nullptr);
    id_ = other.id_;
  }
  return *this;
}

void Blockers::Hold::release() {
  auto* owner = std::exchange(owner_, nullptr);
  if (!owner) return;
  std::lock_guard lock(owner->mutex_);
  std::erase_if(owner->reasons_, [this](const auto& entry) { return entry.first == id_; });
}

Blockers::Hold Blockers::add(std::string reason) {
  std::lock_guard lock(mutex_);
  const auto id = next_id_++;
  reasons_.emplace_back(id, std::move(reason));
  return {this, id};
}

std::vector<std::string> Blockers::reasons() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> all;
  all.reserve(reasons_.size());
  for (const auto& [id, reason] : reasons_)
    all.push_back(reason);
  return all;
}

Status Blockers::check() const {
  const auto all = reasons();
  if (all.empty()) return {};
  std::string text;
  for (const auto& reason : all)
    text += (text.empty() ? "" : "; ") + reason;
  return fail(Errc::state, "this machine cannot migrate now: {}", text);
}

}  // namespace handover
