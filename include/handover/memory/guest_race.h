#pragma once

#if defined(__SANITIZE_THREAD__)
#define HANDOVER_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HANDOVER_THREAD_SANITIZER 1
#endif
#endif

#ifdef HANDOVER_THREAD_SANITIZER
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace handover {

/// Tells ThreadSanitizer that the accesses in this scope race on purpose, as a real guest's do: its memory is
/// written by vCPUs while the migration thread reads it, and the dirty log, not a lock, makes up for that.
class GuestRace {
 public:
#ifdef HANDOVER_THREAD_SANITIZER
  GuestRace() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~GuestRace() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  GuestRace() {}
#endif
  GuestRace(const GuestRace&) = delete;
  GuestRace& operator=(const GuestRace&) = delete;
};

}  // namespace handover
