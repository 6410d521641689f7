#include "devices/accelerator/accelerator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "devices/accelerator/delay.h"
#include "devices/accelerator/interface.h"
#include "handover/base/byte_order.h"
#include "handover/base/log.h"

namespace handover::accelerator {
namespace {

using vfio::DeviceState;

vfio_user::DeviceSpec make_spec(const std::string& name, int window_fd) {
  constexpr std::uint32_t kReadWrite = vfio::kRegionRead | vfio::kRegionWrite;
  vfio_user::DeviceSpec spec;
  spec.name = name;
  spec.regions[kBarRegisters] = {.size = kRegistersSize, .flags = kReadWrite, .areas = {}};
  spec.regions[kBarMsix] = {.size = kMsixBarSize, .flags = kReadWrite, .areas = {}};
  spec.regions[kBarWindow] = {.size = kWindowSize,
                              .flags = kReadWrite | vfio::kRegionMmap,
                              .fd = window_fd,
                              .areas = {{kWindowMappableOffset, kWindowSize - kWindowMappableOffset}}};
  spec.regions[vfio::kRegionConfig] = {.size = ConfigSpace::kSize, .flags = kReadWrite, .areas = {}};
  spec.irq_counts[vfio::kIrqMsix] = kMsixVectors;
  // Never raised, but clients (QEMU) install an eventfd for each without asking.
  spec.irq_counts[vfio::kIrqErr] = 1;
  spec.irq_counts[vfio::kIrqReq] = 1;
  spec.migration_features = vfio::kMigrationStopCopy | vfio::kMigrationP2p | vfio::kMigrationPreCopy;
  spec.dma_logging = true;
  return spec;
}

constexpr bool runs(DeviceState state) {
  return state == DeviceState::running || state == DeviceState::pre_copy;
}

}  // namespace

Result<std::unique_ptr<Accelerator>> Accelerator::create(Options options) {
  if (options.load_cost.count() < 0 || (options.load_cost.count() > 0 && !options.loop))
    return fail(Errc::invalid_argument, "{}: a load cost needs an event loop and is not negative",
                options.name);
  HANDOVER_ASSIGN(auto memory, DeviceMemory::create(options.memory_size));
  HANDOVER_ASSIGN(auto window, Window::create());
  return std::unique_ptr<Accelerator>(
      new Accelerator(std::move(options), std::move(memory), std::move(window)));
}

Accelerator::Accelerator(Options options, std::unique_ptr<DeviceMemory> memory, Window window)
    : options_(std::move(options)),
      spec_(make_spec(options_.name, window.fd())),
      window_(std::move(window)),
      memory_(std::move(memory)),
      engine_(*memory_) {
}

Status Accelerator::region_read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) {
  if (index >= vfio::kPciRegions || !range_fits(offset, to.size(), spec_.regions[index].size))
    return fail(Errc::invalid_argument, "region {} has no {} bytes at {:#x}", index, to.size(), offset);
  switch (index) {
    case kBarRegisters: {
      const std::uint64_t value = engine_.read_register(offset, to.size());
      std::byte bytes[sizeof value];
      store_le(bytes, value);
      for (std::size_t i = 0; i < to.size(); ++i)
        to[i] = i < sizeof bytes ? bytes[i] : std::byte{0xff};
      break;
    }
    case kBarMsix:
      std::memcpy(to.data(), msix_.data() + offset, to.size());
      break;
    case kBarWindow:
      std::memcpy(to.data(), window_.bytes().data() + offset, to.size());
      break;
    default:
      config_.read(offset, to);
      break;
  }
  return {};
}

Status Accelerator::region_write(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) {
  if (index >= vfio::kPciRegions || !range_fits(offset, from.size(), spec_.regions[index].size))
    return fail(Errc::invalid_argument, "region {} has no {} bytes at {:#x}", index, from.size(), offset);
  switch (index) {
    case kBarRegisters: {
      std::byte bytes[sizeof(std::uint64_t)]{};
      std::copy_n(from.begin(), std::min(from.size(), sizeof bytes), bytes);
      engine_.write_register(offset, from.size(), load_le<std::uint64_t>(bytes));
      break;
    }
    case kBarMsix:
      std::memcpy(msix_.data() + offset, from.data(), from.size());
      break;
    case kBarWindow:
      std::memcpy(window_.bytes().data() + offset, from.data(), from.size());
      break;
    default:
      config_.write(offset, from);
      break;
  }
  return {};
}

// On the engine's thread, which is between two pieces; the server makes no other call meanwhile.
Status Accelerator::power_on() {
  config_.reset();
  msix_.fill(std::byte{0});
  window_.clear();
  engine_.load({});
  return memory_->clear();
}

void Accelerator::reset(Completion done) {
  engine_.between_pieces(
      [this]() -> Status {
        encoder_.reset();
        decoder_.reset();
        HANDOVER_TRY(power_on());
        engine_.release(Engine::kDeviceState | Engine::kNoClient);
        return {};
      },
      std::move(done));
}

void Accelerator::transition(DeviceState from, DeviceState to, Completion done) {
  log::debug("{}: {} to {}", options_.name, vfio::to_string(from), vfio::to_string(to));
  if (from == DeviceState::resuming) return finish_resuming(std::move(done));
  if (to == DeviceState::resuming) return start_resuming(std::move(done));

  if (vfio::is_saving(from) && !vfio::is_saving(to)) encoder_.reset();
  if (vfio::is_saving(to)) {
    if (!encoder_) encoder_.emplace(*memory_, window_.bytes());
    if (to == DeviceState::stop_copy) encoder_->finish(record());
  }
  if (runs(from) && !runs(to)) return engine_.hold(Engine::kDeviceState, std::move(done));
  if (!runs(from) && runs(to)) engine_.release(Engine::kDeviceState | Engine::kNoClient);
  done({});
}

DeviceRecord Accelerator::record() const {
  DeviceRecord record;
  std::ranges::copy(config_.bytes(), record.config.begin());
  record.msix = msix_;
  record.engine = engine_.state();
  return record;
}

void Accelerator::start_resuming(Completion done) {
  engine_.between_pieces(
      [this]() -> Status {
        HANDOVER_TRY(power_on());
        decoder_.emplace(*memory_);
        refusal_reported_ = false;
        return {};
      },
      std::move(done));
}

// The client is told no more than an errno, so the reason is said here, once.
void Accelerator::report_refusal(const Error& error) {
  if (!std::exchange(refusal_reported_, true))
    log::warn("{}: the state that came is refused: {}", options_.name, error.to_string());
}

Result<StateDecoder::Loaded> Accelerator::judge() {
  if (!decoder_) return fail(Errc::state, "the device is not being resumed");
  HANDOVER_ASSIGN(auto loaded, decoder_->finish());
  HANDOVER_TRY(config_.load(loaded.record.config));
  return loaded;
}

void Accelerator::finish_resuming(Completion done) {
  auto loaded = judge();
  if (!loaded) {
    // What came so far must not stay: the device is as after power-on, and this session stays failed.
    report_refusal(loaded.error());
    Error error = std::move(loaded).error().with_context(fmt::format("{}: cannot resume", options_.name));
    engine_.between_pieces([this] { return power_on(); },
                           [done = std::move(done), error](const Status&) { done(std::unexpected(error)); });
    return;
  }
  msix_ = loaded->record.msix;
  std::ranges::copy(loaded->window, window_.bytes().begin());
  engine_.load(loaded->record.engine);
  decoder_.reset();
  if (options_.load_cost.count() == 0) return done({});
  after(*options_.loop, options_.load_cost, [done = std::move(done)] { done({}); });
}

Result<std::size_t> Accelerator::migration_read(std::span<std::byte> to) {
  if (!encoder_) return fail(Errc::state, "{}: the device is not being saved", options_.name);
  return encoder_->read(to);
}

Status Accelerator::migration_write(std::span<const std::byte> from) {
  if (!decoder_) return fail(Errc::state, "{}: the device is not being resumed", options_.name);
  auto written = decoder_->write(from);
  if (!written) report_refusal(written.error());
  return written;
}

std::optional<vfio::PrecopyInfo> Accelerator::precopy_info() const {
  if (!encoder_) return std::nullopt;
  return encoder_->precopy_info();
}

std::optional<std::uint64_t> Accelerator::stop_copy_size() const {
  return encoder_ ? encoder_->stop_copy_size() : StateEncoder::stop_copy_size(*memory_);
}

void Accelerator::dma_unmapping(Iova, std::uint64_t, Completion done) {
  engine_.between_pieces({}, std::move(done));
}

void Accelerator::disconnected(Completion done) {
  engine_.hold(Engine::kNoClient, std::move(done));
}

}  // namespace handover::accelerator
