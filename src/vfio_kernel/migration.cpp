#include "vfio_kernel/migration.h"

#include <cerrno>

#include "vfio_kernel/data_descriptor.h"
#include "vfio_kernel/ioctl.h"

namespace handover::vfio_kernel {

using vfio::DeviceState;
using vfio::StateRead;

namespace {

/// The combinations of the three bits that there are: STOP_COPY always, the others or not.
bool makes_sense(std::uint64_t features) {
  return (features & vfio::kMigrationStopCopy) != 0;
}

}  // namespace

Result<std::unique_ptr<KernelMigration>> KernelMigration::probe(int device, const Loss& loss) {
  std::uint64_t features = 0;
  auto got = device_feature(device, uapi::kFeatureGet | uapi::kFeatureMigration, features);
  if (!got) {
    // ENOTTY: no such feature on this device; EINVAL: a kernel without features at all.
    if (const int err = got.error().sys_errno(); err == ENOTTY || err == EINVAL) return nullptr;
    return std::unexpected(std::move(got).error().with_context("asking what its migration supports"));
  }
  // What newer kernels add is not ours to use.
  features &= vfio::kMigrationStopCopy | vfio::kMigrationP2p | vfio::kMigrationPreCopy;
  if (!makes_sense(features))
    return fail(Errc::unsupported, "its migration supports {:#x}, without STOP_COPY", features);
  std::unique_ptr<KernelMigration> self(new KernelMigration(device, loss, features));
  self->data_size_ = has_feature(device, uapi::kFeatureMigDataSize, uapi::kFeatureGet);
  if (features & vfio::kMigrationPreCopy) {
    uapi::Feature opt_in{sizeof(uapi::Feature), uapi::kFeatureSet | uapi::kFeaturePrecopyInfoV2};
    self->reinit_told_ = call(device, uapi::kDeviceFeature, &opt_in).has_value();
  }
  HANDOVER_TRY(self->state());
  return self;
}

Result<DeviceState> KernelMigration::state() {
  HANDOVER_TRY(loss_.check());
  uapi::MigDeviceState data{};
  HANDOVER_TRY_CONTEXT(device_feature(device_, uapi::kFeatureGet | uapi::kFeatureMigDeviceState, data),
                       "asking for the device's state");
  const auto state = vfio::device_state_from(data.device_state);
  if (!state) return fail(Errc::device, "the kernel says that its device is in state {}", data.device_state);
  last_ = *state;
  return *state;
}

void KernelMigration::forget_session() {
  data_.reset();
  ended_ = false;
  (void)state();
}

Status KernelMigration::set_state(DeviceState to) {
  HANDOVER_ASSIGN(const auto from, state());
  if (from == to) return {};
  HANDOVER_ASSIGN(const auto path, vfio::path_between(from, to, features_));
  uapi::MigDeviceState data{static_cast<std::uint32_t>(to), -1};
  auto set = device_feature(device_, uapi::kFeatureSet | uapi::kFeatureMigDeviceState, data);
  if (!set) {
    const auto now = state();
    // What became of a descriptor on a way that was walked in part nobody knows.
    if (!now || *now != from) data_.reset();
    return std::unexpected(std::move(set).error().with_context(
        fmt::format("cannot bring the device to {}", vfio::to_string(to))));
  }
  last_ = to;
  ended_ = false;
  // PRE_COPY to STOP_COPY keeps the session; every other way ends the one before.
  const bool keeps = vfio::is_saving(from) && vfio::is_saving(to);
  if (!keeps) data_.reset();
  if (data.data_fd >= 0) data_.reset(data.data_fd);
  return {};
}

Result<StateRead> KernelMigration::read(std::span<std::byte> buffer) {
  HANDOVER_TRY(loss_.check());
  if (!data_ || !vfio::is_saving(last_))
    return fail(Errc::state, "state cannot be read in {}", vfio::to_string(last_));
  const bool stopped = last_ == DeviceState::stop_copy;
  // Never after the end.
  if (ended_) return StateRead{StateRead::Kind::end, 0};
  auto got = read_state(data_.get(), stopped, buffer, loss_.token());
  if (!got) HANDOVER_TRY(loss_.check());
  if (got && got->kind == StateRead::Kind::end) ended_ = true;
  return got;
}

Status KernelMigration::write(std::span<const std::byte> data) {
  HANDOVER_TRY(loss_.check());
  if (!data_ || last_ != DeviceState::resuming)
    return fail(Errc::state, "state cannot be written in {}", vfio::to_string(last_));
  return write_state(data_.get(), data);
}

Result<std::optional<vfio::PrecopyInfo>> KernelMigration::precopy_info() {
  HANDOVER_TRY(loss_.check());
  if (!data_) return std::nullopt;
  uapi::PrecopyInfo info{};
  info.argsz = sizeof info;
  auto got = call(data_.get(), uapi::kMigGetPrecopyInfo, &info);
  if (!got) {
    if (got.error().sys_errno() == ENOTTY) return std::nullopt;
    return std::unexpected(std::move(got).error().with_context("asking what pre-copy has left"));
  }
  const bool reinit = reinit_told_ && (info.flags & uapi::kPrecopyReinit);
  return vfio::PrecopyInfo{info.initial_bytes, info.dirty_bytes, reinit};
}

Result<std::optional<std::uint64_t>> KernelMigration::stop_copy_size() {
  HANDOVER_TRY(loss_.check());
  if (!data_size_) return std::nullopt;
  std::uint64_t size = 0;
  HANDOVER_TRY_CONTEXT(device_feature(device_, uapi::kFeatureGet | uapi::kFeatureMigDataSize, size),
                       "asking how much state the device has");
  return size;
}

}  // namespace handover::vfio_kernel
