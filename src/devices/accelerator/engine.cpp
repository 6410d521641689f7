#include "devices/accelerator/engine.h"

#include <pthread.h>

#include <array>
#include <utility>

#include "handover/base/log.h"

namespace handover::accelerator {

Engine::Engine(DeviceMemory& memory) : memory_(memory), runner_(memory) {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "accel-engine");
    run();
  });
}

Engine::~Engine() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Engine::attach(vfio_user::DeviceBus& bus) {
  std::lock_guard lock(mutex_);
  bus_ = &bus;
}

std::uint64_t Engine::read_register(std::uint64_t offset, std::size_t width) const {
  std::lock_guard lock(mutex_);
  return registers_.read(offset, width, memory_.size(), draining_);
}

void Engine::write_register(std::uint64_t offset, std::size_t width, std::uint64_t value) {
  {
    std::lock_guard lock(mutex_);
    const auto effect = registers_.write(offset, width, value);
    if (effect == Registers::Effect::drop) drop_job();
    if (effect == Registers::Effect::look) holds_ &= ~unsigned{kNoClient};
  }
  wake_.notify_one();
}

void Engine::hold(Hold why, Completion done) {
  {
    std::lock_guard lock(mutex_);
    holds_ |= why;
    requests_.push_back({{}, std::move(done)});
  }
  wake_.notify_one();
}

void Engine::release(unsigned reasons) {
  {
    std::lock_guard lock(mutex_);
    holds_ &= ~reasons;
  }
  wake_.notify_one();
}

void Engine::between_pieces(std::function<Status()> work, Completion done) {
  {
    std::lock_guard lock(mutex_);
    requests_.push_back({std::move(work), std::move(done)});
  }
  wake_.notify_one();
}

EngineState Engine::state() const {
  std::lock_guard lock(mutex_);
  EngineState state{registers_, job_};
  // What is hashed so far stays in this process.
  if (state.job && !state.job->executed &&
      static_cast<Operation>(state.job->descriptor.operation) == Operation::hash)
    state.job->bytes_done = 0;
  return state;
}

void Engine::load(const EngineState& state) {
  std::lock_guard lock(mutex_);
  drop_job();
  registers_ = state.registers;
  job_ = state.job;
}

void Engine::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] {
      return stopping_ || !requests_.empty() || (bus_ && holds_ == 0 && registers_.has_work());
    });
    if (stopping_) return;
    if (!requests_.empty()) {
      Request request = std::move(requests_.front());
      requests_.pop_front();
      lock.unlock();
      request.done(request.work ? request.work() : Status{});
      lock.lock();
      continue;
    }
    in_piece_ = true;
    step(lock);
    in_piece_ = false;
    draining_ = false;
  }
}

void Engine::step(std::unique_lock<std::mutex>& lock) {
  if (!job_) return fetch(lock);
  if (!job_->executed) return execute(lock);
  complete(lock);
}

void Engine::fetch(std::unique_lock<std::mutex>& lock) {
  const std::uint64_t epoch = epoch_;
  const Iova at{registers_.descriptor_address()};
  lock.unlock();
  std::array<std::byte, sizeof(Descriptor)> bytes;
  const Status read = bus_->dma_read(at, bytes);
  lock.lock();
  if (epoch != epoch_) return;
  if (!read) return ring_failed(read.error(), "submission");
  job_ = Job{.descriptor = decode_descriptor(bytes)};
}

void Engine::execute(std::unique_lock<std::mutex>& lock) {
  const std::uint64_t epoch = epoch_;
  Job job = *job_;
  lock.unlock();
  const Status done = runner_.step(job, *bus_);
  lock.lock();
  if (epoch != epoch_) return;
  if (!done)
    holds_ |= kNoClient;
  else
    job_ = job;
}

void Engine::complete(std::unique_lock<std::mutex>& lock) {
  const std::uint64_t epoch = epoch_;
  const Iova at{registers_.record_address()};
  std::array<std::byte, sizeof(CompletionRecord)> bytes;
  encode_record({.id = job_->descriptor.id,
                 .status = static_cast<std::uint32_t>(job_->status),
                 .sequence = registers_.completed + 1,
                 .result = job_->result,
                 .reserved = 0},
                bytes);
  registers_.completing = true;
  lock.unlock();
  const Status written = bus_->dma_write(at, bytes);
  lock.lock();
  registers_.completing = false;
  if (epoch != epoch_) return;
  if (!written) return ring_failed(written.error(), "completion");
  job_.reset();
  ++registers_.completed;
  ++registers_.jobs_done;
  if (!registers_.interrupt_wanted()) return;
  ++registers_.interrupts_raised;
  // Still inside the piece: whoever holds the engine is told only after the interrupt.
  lock.unlock();
  bus_->trigger_irq(vfio::kIrqMsix, 0);
  lock.lock();
}

void Engine::ring_failed(const Error& error, const char* what) {
  if (client_is_gone(error)) {
    holds_ |= kNoClient;
    return;
  }
  log::warn("accelerator: the {} ring cannot be reached: {}", what, error.to_string());
  registers_.error = true;
  drop_job();
}

void Engine::drop_job() {
  job_.reset();
  ++epoch_;
  draining_ = in_piece_;
}

}  // namespace handover::accelerator
