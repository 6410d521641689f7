#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "handover/check/check.h"

namespace handover::check {

using Bytes = std::vector<std::byte>;

/// A device's state as it came: the bytes, and how many each read gave (protocol v1 wants them written in the
/// same pieces).
struct SavedState {
  Bytes bytes;
  std::vector<std::size_t> pieces;
};

/// How much a read or write carries: `size` bytes the first `count` times, then what the device prefers.
/// Anything but the default is only for devices that can be cut anywhere.
struct Cut {
  std::size_t size = 0;  ///< 0: what the device prefers
  std::size_t count = std::numeric_limits<std::size_t>::max();
};

/// The device under check, and the steps that checks are made of.
///
/// Whoever calls has the device to itself.  A step that fails says what was asked for and what came.
class Bench {
 public:
  Bench(vfio::Device& device, GuestMemory& memory, const Options& options, CancelToken cancel);

  vfio::Device& device() { return device_; }
  vfio::MigrationProtocol& migration() { return *device_.migration(); }
  const Options& options() const { return options_; }
  GuestMemory& memory() { return memory_; }
  std::uint64_t features() { return migration().features(); }
  bool has(vfio::DeviceState state) { return vfio::state_exists(state, features()); }
  /// The device's pieces are part of its protocol.
  bool keeps_chunks() { return migration().keeps_chunks(); }
  bool lost() const { return device_.lost(); }
  std::string loss() const;
  const CancelToken& cancel() const { return cancel_; }

  // States (bench.cpp).

  Status expect(vfio::DeviceState wanted);
  /// One request, which the device may have to walk, and the state read back.
  Status ask(vfio::DeviceState to);
  /// From where the device is, arc by arc.
  Status enter(vfio::DeviceState to);
  /// A state number that must be refused without effect.  MigrationProtocol takes the enumeration; a number
  /// that is none of its names is passed in it unchanged.
  Status refuses(std::uint32_t number);
  Status reset();
  /// To RUNNING by whatever works; a reset is the last resort.
  Status settle();
  /// True once the device has been reset or loaded: it no longer holds what it held in the beginning.
  bool touched() const { return touched_; }

  /// Success if the call was refused; a call that was carried out, or that got no answer, is a failure.
  template <class T>
  Status refused(const Result<T>& call, std::string_view what) {
    if (call) return fail(Errc::device, "{} was accepted", what);
    return is_refusal(call.error());
  }
  Status is_refusal(const Error& error);

  // Data (transfer.cpp).

  Result<vfio::StateRead> read(std::span<std::byte> buffer);
  /// One read of a part of the state, unless that is very small.
  Result<vfio::StateRead> read_some();
  /// Writing in the present state must be refused: at once, or at the next request, for whoever drives the
  /// device may run ahead of it.
  Status refuses_writing();
  /// In STOP_COPY: all that is left is appended.
  Status read_to_end(SavedState& to, Cut cut = {});
  /// In STOP_COPY: one read of a part of the state, appended.
  Status read_part(SavedState& to);
  /// In a pre-copy state: reads until the device has nothing now, or has given at least `least` bytes.  True
  /// if it paused.
  Result<bool> read_to_pause(SavedState& to, std::uint64_t least, Cut cut = {});
  /// In a pre-copy state: the least that can be read.
  Status read_a_little(SavedState& to);
  /// In RESUMING.
  Status write(const SavedState& state);
  Status write(std::span<const std::byte> bytes, Cut cut);
  /// Bytes that are not quite the sample, in its pieces as far as they go.
  SavedState in_pieces_of_the_sample(Bytes bytes) const;
  /// From RUNNING to RUNNING.
  Result<SavedState> save(Cut cut = {});
  Status load(const SavedState& state);
  /// The device runs and can be saved.
  Status works();

  /// The state that was saved in the beginning, and why not if it was not.
  void keep_sample(Result<SavedState> sample) { sample_ = std::move(sample); }
  const Result<SavedState>& saved() const { return sample_; }
  /// Only in cases that load.
  const SavedState& sample() const { return *sample_; }
  /// In RESUMING: the sample goes in, and the device to STOP.
  Status finish_load();

  // The DMA log (log_checks.cpp is its user).

  vfio::DmaLog& log() { return *device_.dma_log(); }
  Status start_log(std::uint64_t page_size, std::span<const vfio::IovaRange> ranges);
  Status stop_log();
  /// Memory that the device can reach.
  vfio::IovaRange reachable() const;

 private:
  std::size_t chunk() const;
  std::size_t part() const;
  Result<vfio::StateRead> append(SavedState& to, std::size_t want);

  struct Loss {
    std::mutex mutex;
    std::string reason;
  };

  vfio::Device& device_;
  GuestMemory& memory_;
  const Options& options_;
  const CancelToken cancel_;
  std::shared_ptr<Loss> loss_ = std::make_shared<Loss>();
  Result<SavedState> sample_ = std::unexpected(Error(Errc::state, "it was not saved"));
  Bytes buffer_;
  bool touched_ = false;
  bool logging_ = false;
};

}  // namespace handover::check
