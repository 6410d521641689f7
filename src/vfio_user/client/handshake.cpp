#include <sys/stat.h>

#include <algorithm>

#include "handover/base/log.h"
#include "handover/vfio/v1_migration.h"
#include "vfio_user/client/device.h"
#include "vfio_user/client/feature_call.h"

namespace handover::vfio_user {

using namespace protocol;
using vfio::DeviceState;

namespace {

constexpr std::uint64_t kClientMaxFds = 8;
// No PCI device has more; what a server claims beyond it is a lie or a mistake.
constexpr std::uint32_t kMaxRegions = 100;
constexpr std::uint32_t kMaxIrqIndexes = 50;
constexpr std::uint32_t kMaxVectors = 4096;
constexpr std::uint32_t kMaxRegionInfo = 64 * KiB;

std::string version_request() {
  Capabilities ours;
  ours.max_msg_fds = kClientMaxFds;
  ours.twin_socket = Capabilities::TwinSocket{true, std::nullopt};
  ours.handover = true;
  return to_json(ours);
}

// Whole and in order: every area inside the region, none on top of another.
Status check_areas(const vfio::RegionInfo& info) {
  auto areas = info.areas;
  std::ranges::sort(areas, {}, &vfio::RegionArea::offset);
  std::uint64_t end = 0;
  for (const auto& area : areas) {
    if (area.size == 0 || area.offset < end || !range_fits(area.offset, area.size, info.size))
      return fail(Errc::protocol,
                  "region {}: mappable area [{:#x}, +{:#x}) overlaps another or leaves the region",
                  info.index, area.offset, area.size);
    end = area.offset + area.size;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<ClientDevice>> ClientDevice::open(const ClientOptions& options, UniqueFd socket,
                                                         GuestMemory& memory, CancelToken cancel) {
  std::unique_ptr<ClientDevice> device(
      new ClientDevice(options, std::move(socket), memory, std::move(cancel)));
  HANDOVER_TRY(device->negotiate());
  // Some servers refuse everything but features to a device that another client left stopped.
  HANDOVER_TRY(device->find_features());
  if (!options.keep_state) HANDOVER_TRY(device->repair_state());
  HANDOVER_TRY(device->read_info());
  HANDOVER_TRY(device->find_migration_region(options.keep_state));
  HANDOVER_TRY(device->read_irqs());
  return device;
}

Status ClientDevice::negotiate() {
  Version request;
  request.minor = kMinor;
  request.text = version_request();
  HANDOVER_ASSIGN_CONTEXT(auto reply, connection_.call(Command::version, MessageBuilder().add(request)),
                          "cannot agree on a protocol version");
  HANDOVER_ASSIGN_CONTEXT(const auto version, Version::decode(reply.payload), "version reply");
  if (version.major != kMajor || version.minor > kMinor)
    return fail(Errc::mismatch, "the server speaks vfio-user {}.{}, we speak {}.{}", version.major,
                version.minor, kMajor, kMinor);
  HANDOVER_ASSIGN_CONTEXT(const auto server, parse_capabilities(version.text), "version reply");
  if (server.max_data_xfer_size == 0) return fail(Errc::mismatch, "the server takes no data at all");
  peer_.handover = server.handover;
  peer_.max_fds = std::min<std::uint64_t>(server.max_msg_fds, kMaxFds);
  peer_.max_transfer =
      std::min<std::uint64_t>(server.max_data_xfer_size, server.handover ? kOwnTransfer : kSafeTransfer);
  return take_twin(server, std::move(reply.fds));
}

Status ClientDevice::take_twin(const Capabilities& server, std::vector<UniqueFd> fds) {
  if (!server.twin_socket || !server.twin_socket->supported) return {};
  const auto index = server.twin_socket->fd_index;
  struct stat file;
  if (!index || *index >= fds.size() || ::fstat(fds[*index].get(), &file) < 0 || !S_ISSOCK(file.st_mode))
    return fail(Errc::protocol, "the server promises a twin socket and passes none");
  connection_.use_twin(std::move(fds[*index]));
  connection_.set_one_at_a_time(false);
  return {};
}

Status ClientDevice::read_info() {
  HANDOVER_ASSIGN(const auto reply,
                  connection_.call(Command::device_get_info, MessageBuilder().add(protocol::DeviceInfo{})));
  HANDOVER_ASSIGN_CONTEXT(const auto info, decode<protocol::DeviceInfo>(reply.payload), "device info");
  if (info.num_regions > kMaxRegions || info.num_irqs > kMaxIrqIndexes)
    return fail(Errc::limit, "the server claims {} regions and {} interrupt indexes", info.num_regions,
                info.num_irqs);
  info_ = {info.flags, info.num_regions, info.num_irqs};
  for (std::uint32_t index = 0; index < info.num_regions; ++index) {
    HANDOVER_ASSIGN_CONTEXT(auto region, read_region(index), "region {}", index);
    regions_.push_back(std::move(region));
  }
  return {};
}

Result<ClientDevice::Region> ClientDevice::read_region(std::uint32_t index) {
  RegionInfoHead request;
  request.index = index;
  Message reply;
  RegionInfoReply info;
  // The first reply says how much the second needs; a third time would be a game.
  for (int round = 0;; ++round) {
    HANDOVER_ASSIGN(reply, connection_.call(Command::device_get_region_info, MessageBuilder().add(request)));
    HANDOVER_ASSIGN(info, RegionInfoReply::decode(reply.payload));
    if (info.head.index != index)
      return fail(Errc::protocol, "the server answers about region {}", info.head.index);
    if (info.head.argsz <= request.argsz) break;
    if (round > 0 || info.head.argsz > kMaxRegionInfo)
      return fail(Errc::protocol, "the server wants to say {} bytes about it", info.head.argsz);
    request.argsz = info.head.argsz;
  }
  Region region;
  region.info = {index,    info.head.flags & ~vfio::kRegionCaps, info.head.size, info.head.offset, {},
                 info.type};
  if (!(info.head.flags & vfio::kRegionMmap)) return region;
  struct stat file;
  if (reply.fds.empty() || ::fstat(reply.fds.front().get(), &file) < 0 || !S_ISREG(file.st_mode)) {
    log::warn("{}: region {} is said to be mappable, but no file comes with it", name_, index);
    region.info.flags &= ~vfio::kRegionMmap;
    return region;
  }
  region.file = std::move(reply.fds.front());
  region.info.areas =
      info.sparse ? std::move(*info.sparse) : std::vector{vfio::RegionArea{0, info.head.size}};
  HANDOVER_TRY(check_areas(region.info));
  return region;
}

Status ClientDevice::read_irqs() {
  for (std::uint32_t index = 0; index < info_.num_irqs; ++index) {
    protocol::IrqInfo request;
    request.index = index;
    HANDOVER_ASSIGN(const auto reply,
                    connection_.call(Command::device_get_irq_info, MessageBuilder().add(request)));
    HANDOVER_ASSIGN_CONTEXT(const auto info, decode<protocol::IrqInfo>(reply.payload), "interrupt index {}",
                            index);
    if (info.count > kMaxVectors)
      return fail(Errc::limit, "the server claims {} vectors of interrupt index {}", info.count, index);
    irqs_.push_back({index, info.flags, info.count});
    installed_.emplace_back(info.count, false);
  }
  return {};
}

Status ClientDevice::find_features() {
  bool all = true;
  for (const auto& [feature, methods] : {std::pair{kFeatureDmaLoggingStart, kFeatureSet},
                                         {kFeatureDmaLoggingStop, kFeatureSet},
                                         {kFeatureDmaLoggingReport, kFeatureGet}}) {
    HANDOVER_ASSIGN(const auto there, probe_feature(connection_, feature, methods));
    all = all && there;
  }
  if (all) dma_log_.emplace(connection_, peer_, dma_);

  blocker_ = fmt::format("{} does not support migration", name_);
  HANDOVER_ASSIGN(const auto migrates, probe_feature(connection_, kFeatureMigration, kFeatureGet));
  HANDOVER_ASSIGN(const auto states,
                  probe_feature(connection_, kFeatureDeviceState, kFeatureGet | kFeatureSet));
  if (!migrates || !states) return {};
  ClientMigration::Probed probed;
  HANDOVER_ASSIGN_CONTEXT(const auto features, get_feature<U64>(connection_, kFeatureMigration),
                          "migration features");
  constexpr auto kKnown = vfio::kMigrationStopCopy | vfio::kMigrationP2p | vfio::kMigrationPreCopy;
  probed.features = features.value & kKnown;
  if (!(probed.features & vfio::kMigrationStopCopy)) {
    blocker_ = fmt::format("{} has migration features {:#x} without stop-copy", name_, features.value);
    return {};
  }
  HANDOVER_ASSIGN(probed.data_size, probe_feature(connection_, kFeatureMigDataSize, kFeatureGet));
  HANDOVER_ASSIGN(probed.precopy_info, probe_feature(connection_, kFeatureMigPrecopyInfo, kFeatureGet));
  auto v2 = std::make_unique<ClientMigration>(connection_, peer_, probed);
  v2_ = v2.get();
  migration_ = std::move(v2);
  blocker_.clear();
  return {};
}

// A device speaks one of the two protocols: v2 if it has its features, else v1 if it has the region.
Status ClientDevice::find_migration_region(bool keep_state) {
  if (migration_) return {};
  const auto region = vfio::V1Migration::find_region(*this);
  if (!region) return {};
  auto made = vfio::V1Migration::create(*this, *region);
  if (!made) {
    blocker_ = std::move(made).error().with_context(name_).to_string();
    return {};
  }
  migration_ = std::move(*made);
  blocker_.clear();
  return keep_state ? Status{} : repair_state();
}

// A server may keep a device where the client before left it.
Status ClientDevice::repair_state() {
  if (!migration_) return {};
  HANDOVER_ASSIGN_CONTEXT(const auto state, migration_->state(), "device state");
  if (state == DeviceState::running) return {};
  log::warn("{} is in state {}, left there by another client; it is set running", name_,
            vfio::to_string(state));
  auto running = state == DeviceState::error ? Status(fail(Errc::device, "the device is in its error state"))
                                             : migration_->set_state(DeviceState::running);
  if (running) return {};
  HANDOVER_TRY_CONTEXT(connection_.call(Command::device_reset, {}), "{}; and it cannot be reset",
                       running.error().to_string());
  HANDOVER_ASSIGN_CONTEXT(const auto now, migration_->state(), "device state");
  if (now == DeviceState::running) return {};
  return fail(Errc::device, "{} stays in state {} after a reset; restart its server", name_,
              vfio::to_string(now));
}

}  // namespace handover::vfio_user
