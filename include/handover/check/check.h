#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "handover/base/cancel.h"
#include "handover/base/units.h"
#include "handover/memory/guest_memory.h"
#include "handover/vfio/device.h"

/// The migration conformance kit: asks a device everything that a migration may ask of it, and some of what
/// it must refuse.
///
/// Everything goes through vfio::Device, so a device is checked the same whatever carries the calls.  The
/// walk over the states is made from the one table in vfio_abi/device_state.h.
namespace handover::check {

/// What a check demands, and by what right.
struct Description {
  std::string id;      ///< `group.what`; stable, for --only and for lists of known failures
  std::string what;    ///< a sentence
  std::string clause;  ///< of the VFIO uAPI or of the vfio-user protocol
  /// A sound device loses what it holds (it is loaded or reset on the way).
  bool exclusive = false;

  std::string group() const { return id.substr(0, id.find('.')); }
};

/// Every check there is, in the order in which they run.
std::vector<Description> catalogue();

enum class Verdict {
  passed,
  warned,       ///< permitted, and yet an engine has to know it
  failed,       ///< breaks the clause
  not_offered,  ///< the device does not have what is checked, and need not
  not_run,      ///< not asked; the reason says why
};
std::string_view to_string(Verdict verdict);

struct Finding {
  Verdict verdict = Verdict::passed;
  std::string why;  ///< one line; may be empty if it passed
};

struct Entry {
  Description check;
  Finding finding;
  std::chrono::nanoseconds took{0};
};

struct Options {
  /// Also what loses the state that a sound device holds.
  bool exclusive = false;
  /// Ids, or beginnings of ids up to a dot (`load`, `arc.running`); empty: all.
  std::vector<std::string> only = {};
  /// False for devices of the kernel: kernels from 6.2 up to at least 6.12.95 never return from a request to
  /// go from STOP_COPY to a pre-copy state, and cannot be interrupted in it.
  bool ask_hanging_arcs = true;
  /// True for devices of the kernel, whose core refuses bad log ranges before a driver sees them.  vfio-user
  /// servers may log more than was asked for instead.
  bool kernel_log_rules = false;
  /// State of more bytes than this counts as endless.  A few copies of the device's state are held.
  std::uint64_t max_state = 1 * GiB;
};

struct Report {
  std::string device;
  std::uint64_t features = 0;  ///< kMigration... bits
  bool dma_log = false;
  bool resettable = false;
  bool exclusive = false;
  /// What became of the state that the device held before.
  std::string state;
  /// Why the run ended before the last check, if it did.
  std::optional<std::string> ended_early;
  std::chrono::nanoseconds took{0};
  std::vector<Entry> entries;

  std::size_t count(Verdict verdict) const;
  /// Nothing failed, and the run came to its end.
  bool green() const;
};

/// An entry of `only` that names no check, as a sentence; empty if all do.
std::optional<std::string> find_unknown(const std::vector<std::string>& only);

/// Called before each check.
using Progress = std::function<void(const Description& next, std::size_t index, std::size_t count)>;

/// Checks the device, which must not be in use: nobody else may call it or map memory for it meanwhile.
///
/// Blocks until all is done: some thousand calls of the device, and some dozen times its whole state.
/// `memory` is mapped for the device's DMA, and what it holds may be overwritten.  The device's state is
/// saved first, and put back at the end if anything changed it.  `cancel` ends the run after the call under
/// way, with the device set running again.  A device that is lost ends the run; what was not reached says so.
///
/// Fails if the device cannot migrate at all, or if an entry of `only` is no check.
Result<Report> run(vfio::Device& device, GuestMemory& memory, const Options& options,
                   const CancelToken& cancel, const Progress& progress = {});

}  // namespace handover::check
