#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "handover/base/result.h"

namespace handover {

/// Reasons why the machine cannot migrate now, each held by whoever knows it.  Any thread.
class Blockers {
 public:
  /// Removes its reason when destroyed; must not outlive the Blockers.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), id_(other.id_) {}
    Hold& operator=(Hold&& other) noexcept;
    ~Hold() { release(); }
    void release();

   private:
    friend class Blockers;
    Hold(Blockers* owner, std::size_t id) : owner_(owner), id_(id) {}
    Blockers* owner_ = nullptr;
    std::size_t id_ = 0;
  };

  [[nodiscard]] Hold add(std::string reason);
  std::vector<std::string> reasons() const;
  /// Fails with every reason, if there is one.
  Status check() const;

 private:
  mutable std::mutex mutex_;  // leaf
  std::vector<std::pair<std::size_t, std::string>> reasons_;
  std::size_t next_id_ = 1;
};

}  // namespace handover
