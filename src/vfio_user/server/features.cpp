#include <algorithm>
#include <bit>
#include <cerrno>

#include "vfio_user/server/session.h"

namespace handover::vfio_user {

using namespace protocol;
using vfio::DeviceState;

namespace {

bool migrates(const Host& host) {
  return host.options.migration == MigrationInterface::v2 && host.spec.migration_features != 0;
}
bool has_pre_copy(const Host& host) {
  return migrates(host) && (host.spec.migration_features & vfio::kMigrationPreCopy);
}
bool logs(const Host& host) {
  return host.spec.dma_logging;
}

template <class Data>
Reply get_reply(const Feature& request, const Data& data) {
  Reply reply;
  auto head = request.head;
  head.argsz = static_cast<std::uint32_t>(wire_size<FeatureHead>() + wire_size<Data>());
  reply.payload.add(head).add(data);
  return reply;
}

template <class Data>
Outcome answer_get(const Feature& request, const Data& data) {
  if (request.head.argsz < wire_size<FeatureHead>() + wire_size<Data>())
    return refuse(EINVAL, "argsz of {} bytes is too small for the answer", request.head.argsz);
  return get_reply(request, data);
}

// SET and PROBE are answered with what was asked.
Reply echo(const Feature& request) {
  Reply reply;
  reply.payload.add(request);
  return reply;
}

}  // namespace

/// Which features there are, when, and what they do.
struct FeatureTable {
  using Handler = Outcome (Session::*)(const Feature&);
  struct Row {
    std::uint32_t feature;
    bool (*present)(const Host&);
    Handler get;
    Handler set;
  };
  static constexpr Row kRows[] = {
      {kFeatureMigration, migrates, &Session::get_migration, nullptr},
      {kFeatureDeviceState, migrates, &Session::get_device_state, &Session::set_device_state},
      {kFeatureDmaLoggingStart, logs, nullptr, &Session::start_logging},
      {kFeatureDmaLoggingStop, logs, nullptr, &Session::stop_logging},
      {kFeatureDmaLoggingReport, logs, &Session::report_logging, nullptr},
      {kFeatureMigDataSize, migrates, &Session::get_data_size, nullptr},
      {kFeatureMigPrecopyInfo, has_pre_copy, &Session::get_precopy_info, nullptr},
  };
};

Outcome Session::device_feature(const Message& message) {
  HANDOVER_ASSIGN(const auto request, Feature::decode(message.payload));
  const auto flags = request.head.flags;
  const bool get = flags & kFeatureGet, set = flags & kFeatureSet, probe = flags & kFeatureProbe;
  if (flags & ~(0xffffu | kFeatureGet | kFeatureSet | kFeatureProbe))
    return refuse(EINVAL, "flags {:#x}", flags);
  if (!probe && get == set) return refuse(EINVAL, "neither GET nor SET, or both");
  const auto least = probe || set ? message.payload.size() : wire_size<FeatureHead>();
  if (request.head.argsz < least) return refuse(EINVAL, "argsz of {} bytes is too small", request.head.argsz);

  const auto* row =
      std::ranges::find(FeatureTable::kRows, request.head.feature(), &FeatureTable::Row::feature);
  if (row == std::end(FeatureTable::kRows) || !row->present(host_))
    return refuse(ENOTTY, "no feature {}", request.head.feature());
  if ((get && !row->get) || (set && !row->set))
    return refuse(EINVAL, "feature {} the other way", request.head.feature());
  if (probe) return echo(request);
  return (this->*(get ? row->get : row->set))(request);
}

Outcome Session::get_migration(const Feature& request) {
  return answer_get(request, U64{host_.spec.migration_features});
}

Outcome Session::get_device_state(const Feature& request) {
  return answer_get(request, DeviceStateData{static_cast<std::uint32_t>(host_.walker->state()), 0xffffffff});
}

Outcome Session::set_device_state(const Feature& request) {
  HANDOVER_ASSIGN(const auto wanted, decode<DeviceStateData>(request.data));
  const auto to = vfio::device_state_from(wanted.state);
  if (!to) return refuse(EINVAL, "no device state {}", wanted.state);
  // The client's answer to a path that does not exist is always EINVAL, as the kernel's.
  if (auto path = vfio::path_between(host_.walker->state(), *to, host_.spec.migration_features); !path)
    return refuse(EINVAL, "{}", path.error().to_string());
  if (*to == host_.walker->state()) return echo(request);
  NativeWriter copy;
  request.encode(copy);
  host_.walker->go(*to, [self = shared_from_this(), payload = copy.take()](Status status) {
    if (!status) return self->complete(std::unexpected(std::move(status).error()));
    Reply reply;
    reply.payload.data(payload);
    self->complete(std::move(reply));
  });
  return std::nullopt;
}

Outcome Session::start_logging(const Feature& request) {
  HANDOVER_ASSIGN(const auto start, DmaLoggingStart::decode(request.data));
  if (!std::has_single_bit(start.head.page_size)) return refuse(EINVAL, "page size {}", start.head.page_size);
  if (start.head.reserved != 0) return refuse(EINVAL, "reserved field is not 0");
  HANDOVER_TRY(host_.log.start(start.ranges));
  return echo(request);
}

Outcome Session::stop_logging(const Feature& request) {
  host_.log.stop();
  return echo(request);
}

Outcome Session::report_logging(const Feature& request) {
  HANDOVER_ASSIGN(const auto head, decode<DmaLoggingReportHead>(request.data));
  if (!host_.log.on()) return refuse(EINVAL, "nothing is logged");
  if (!std::has_single_bit(head.page_size)) return refuse(EINVAL, "page size {}", head.page_size);
  const auto last = head.iova + (head.length - 1);
  if (head.length == 0 || last < head.iova)
    return refuse(EINVAL, "range at {:#x} is empty or wraps", head.iova);
  const auto bytes = bitmap_bytes(head.length, head.page_size);
  const auto size = wire_size<FeatureHead>() + wire_size<DmaLoggingReportHead>() + bytes;
  if (bytes > kMaxBitmap || request.head.argsz < size)
    return refuse(EINVAL, "bitmap of {} bytes, argsz {}", bytes, request.head.argsz);
  if (!host_.table.any_in(head.iova, last) && !host_.log.touched(head.iova, head.length))
    return refuse(ENOENT, "nothing is mapped at {:#x}", head.iova);
  Reply reply;
  auto reply_head = request.head;
  reply_head.argsz = static_cast<std::uint32_t>(size);
  auto& out = reply.payload.add(reply_head).add(head).payload();
  const auto bitmap_at = out.size();
  out.zeros(bytes);
  host_.log.take(head.iova, head.length, head.page_size, out.view().subspan(bitmap_at));
  return reply;
}

Outcome Session::get_data_size(const Feature& request) {
  const auto size = host_.model.stop_copy_size();
  if (!size) return refuse(ENODATA, "the device cannot say how much its state is");
  return answer_get(request, U64{*size});
}

Outcome Session::get_precopy_info(const Feature& request) {
  const auto state = host_.walker->state();
  if (state != DeviceState::pre_copy && state != DeviceState::pre_copy_p2p)
    return refuse(EINVAL, "pre-copy information in {}", vfio::to_string(state));
  const auto info = host_.model.precopy_info();
  if (!info) return refuse(ENODATA, "the device cannot say what pre-copy has left");
  return answer_get(
      request, PrecopyInfoData{info->initial_bytes, info->dirty_bytes, info->reinit ? kPrecopyReinit : 0});
}

Outcome Session::mig_data_read(const Message& message) {
  HANDOVER_ASSIGN(auto head, decode<MigDataHead>(message.payload));
  if (!migrates(host_) || !vfio::is_saving(host_.walker->state()))
    return refuse(EINVAL, "migration data cannot be read in {}", vfio::to_string(host_.walker->state()));
  if (head.size > host_.options.max_data_xfer_size) return refuse(EINVAL, "{} bytes at once", head.size);
  if (head.argsz < wire_size<MigDataHead>() + std::uint64_t{head.size})
    return refuse(EINVAL, "argsz {}", head.argsz);
  Payload data(head.size);
  std::size_t got = 0;
  if (head.size > 0) {
    HANDOVER_ASSIGN(got, host_.model.migration_read(data));
  }
  if (got > data.size())
    return refuse(EIO, "the device gave {} bytes where {} were asked for", got, data.size());
  data.cut(got);
  head.size = static_cast<std::uint32_t>(got);
  head.argsz = static_cast<std::uint32_t>(wire_size<MigDataHead>() + got);
  Reply reply;
  reply.payload.add(head);
  reply.data = std::move(data);
  return reply;
}

Outcome Session::mig_data_write(const Message& message) {
  HANDOVER_ASSIGN(const auto request, MigData::decode(message.payload));
  const auto& head = request.head;
  if (!migrates(host_) || host_.walker->state() != DeviceState::resuming)
    return refuse(EINVAL, "migration data cannot be written in {}", vfio::to_string(host_.walker->state()));
  if (head.size > host_.options.max_data_xfer_size) return refuse(EINVAL, "{} bytes at once", head.size);
  if (head.argsz < wire_size<MigDataHead>() + std::uint64_t{head.size})
    return refuse(EINVAL, "argsz {}", head.argsz);
  if (head.size > request.data.size())
    return refuse(EINVAL, "{} bytes announced, {} there", head.size, request.data.size());
  if (head.size > 0) HANDOVER_TRY(host_.model.migration_write(request.data.first(head.size)));
  return Reply{};
}

}  // namespace handover::vfio_user
