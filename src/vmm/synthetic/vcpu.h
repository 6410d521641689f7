#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "handover/base/cancel.h"
#include "handover/machine/vcpu.h"
#include "handover/vmm/vm_config.h"
#include "vmm/interrupt_sink.h"
#include "vmm/synthetic/program.h"

namespace handover::vmm::synthetic {

/// A CPU that needs no hypervisor: a thread that carries out the steps of a Program.
///
/// It stops between two steps, so never in the middle of an access or a page.  Registers belong to its thread
/// while it runs and to whoever has paused it otherwise.  Its interrupt controller takes messages from any
/// thread; what is raised and not yet handled is part of the registers.
class SyntheticVcpu final : public Vcpu, public InterruptSink {
 public:
  /// What the guest's firmware tells it of the platform.
  struct Platform {
    bool p2p = true;      ///< devices reach each other
    bool viommu = false;  ///< devices reach what is mapped in the IOMMU
  };
  /// Fails if the guest does not fit into memory.  `devices` is how many it drives at most.
  static Result<std::unique_ptr<SyntheticVcpu>> create(std::uint32_t index, GuestMemory& memory,
                                                       AddressSpace& bus, const GuestOptions& options,
                                                       std::uint32_t devices) {
    return create(index, memory, bus, options, devices, Platform{});
  }
  static Result<std::unique_ptr<SyntheticVcpu>> create(std::uint32_t index, GuestMemory& memory,
                                                       AddressSpace& bus, const GuestOptions& options,
                                                       std::uint32_t devices, const Platform& platform);
  ~SyntheticVcpu() override;

  // Vcpu
  std::string name() const override { return "vcpu" + std::to_string(index_); }
  void resume() override;
  void pause() override;
  Migratable& state() override { return state_; }
  void on_panic(std::function<void(std::string reason)> handler) override;

  // InterruptSink
  void message(std::uint64_t address, std::uint32_t data) override;

  /// Any thread.
  GuestReport report() const;
  /// Any thread but this CPU's.  A running guest finishes its jobs and checks everything; of a paused one the
  /// memory is checked.  Fails with Errc::mismatch (the running guest has panicked then), timeout, or state.
  Result<VerifyReport> verify(std::chrono::milliseconds timeout, const CancelToken& cancel = {});

 private:
  // The registers as section `synthetic-vcpu`.
  class State final : public StateItem {
   public:
    explicit State(SyntheticVcpu& cpu) : cpu_(cpu) {}
    std::string section_name() const override { return "synthetic-vcpu"; }
    std::uint32_t instance_id() const override { return cpu_.index_; }
    std::string display_name() const override { return cpu_.name(); }
    const vmstate::Description* description() const override { return Registers::description().get(); }
    Status save_state(StreamWriter& out) override;
    Status load_state(StreamReader& in, std::uint32_t version) override;

   protected:
    void* mutable_object() const override { return &cpu_.registers_; }

   private:
    SyntheticVcpu& cpu_;
  };

  SyntheticVcpu(std::uint32_t index, GuestMemory& memory, AddressSpace& bus, Registers registers);
  void run();
  void execute();
  void take_interrupt_requests();
  void rest();
  void panic(const std::string& reason);
  void handle_verification();
  void publish();

  const std::uint32_t index_;
  GuestMemory& memory_;
  AddressSpace& bus_;
  Registers registers_;
  std::optional<Program> program_;
  State state_{*this};

  std::array<std::atomic<std::uint64_t>, 4> interrupt_requests_{};
  std::mutex idle_mutex_;  // leaf: only orders a wake-up with falling asleep
  std::condition_variable idle_;

  std::atomic<bool> wanted_{false};  // to run; written under mutex_
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool parked_ = true;
  bool quit_ = false;
  std::string panic_;
  std::function<void(std::string)> on_panic_;
  enum class Verify { none, asked, going, finished };
  Verify verify_ = Verify::none;
  std::atomic<bool> verify_changed_{false};
  std::optional<Result<VerifyReport>> verify_result_;

  mutable std::mutex report_mutex_;  // leaf
  GuestReport report_;

  std::thread thread_;  // last
};

}  // namespace handover::vmm::synthetic
