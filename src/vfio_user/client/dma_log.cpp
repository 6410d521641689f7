#include "vfio_user/client/dma_log.h"

#include <algorithm>
#include <cerrno>

#include "handover/base/log.h"
#include "vfio_user/client/feature_call.h"

namespace handover::vfio_user {

using namespace protocol;

namespace {

// What one report covers towards a server of ours: 1 MiB of bitmap.
constexpr std::uint64_t kOwnReport = 32 * GiB;

}  // namespace

Status ClientDmaLog::start(std::uint64_t, std::span<const vfio::IovaRange> ranges) {
  DmaLoggingStart start;
  start.head.page_size = page_size();
  if (ranges.size() > kMaxRanges)
    return fail(Errc::invalid_argument, "a DMA log of {} ranges; at most {} are possible", ranges.size(),
                kMaxRanges);
  for (const auto& range : ranges)
    start.ranges.push_back({range.start.value, range.size});
  NativeWriter data;
  start.encode(data);
  HANDOVER_TRY_CONTEXT(set_feature(connection_, kFeatureDmaLoggingStart, data.view()),
                       "cannot start the DMA log");
  kept_.clear();
  {
    std::lock_guard lock(mutex_);
    distrusted_.reset();
  }
  started_ = true;
  return {};
}

void ClientDmaLog::distrust(Error why) {
  std::lock_guard lock(mutex_);
  if (!distrusted_) distrusted_ = std::move(why);
}

Status ClientDmaLog::stop() {
  started_ = false;
  kept_.clear();
  HANDOVER_TRY_CONTEXT(set_feature(connection_, kFeatureDmaLoggingStop, {}), "cannot stop the DMA log");
  return {};
}

// Moves the server's marks of the range into kept_.
Status ClientDmaLog::fetch(const vfio::IovaRange& range) {
  const DmaLoggingReportHead head{range.start.value, range.size, page_size()};
  const auto bytes = bitmap_bytes(range.size, page_size());
  const auto size = wire_size<FeatureHead>() + wire_size<DmaLoggingReportHead>() + bytes;
  if (size > 0xffffffff) return fail(Errc::limit, "a dirty bitmap of {} bytes", bytes);
  MessageBuilder request;
  request.add(FeatureHead{static_cast<std::uint32_t>(size), kFeatureDmaLoggingReport | kFeatureGet})
      .add(head);
  HANDOVER_ASSIGN(const auto reply, connection_.call(Command::device_feature, std::move(request), {},
                                                     kHeaderSize + size + kMessageSlack));
  HANDOVER_ASSIGN(const auto feature, Feature::decode(reply.payload));
  HANDOVER_ASSIGN(const auto report, DmaLoggingReport::decode(feature.data));
  if (report.head.iova != head.iova || report.head.length != head.length ||
      report.head.page_size != head.page_size || report.data.size() < bytes)
    return fail(Errc::protocol,
                "the dirty report of [{:#x}, +{:#x}) has {} bytes of bitmap for another range or page",
                head.iova, head.length, report.data.size());
  kept_.absorb(head.iova, head.length, head.page_size, report.data.first(bytes));
  return {};
}

Status ClientDmaLog::fetch_mapping(const vfio::DmaMapping& mapping) {
  // Without a descriptor the server can only write by message, which is logged here.
  if (mapping.fd < 0 || !(mapping.flags & vfio::kDmaWrite)) return {};
  const vfio::IovaRange whole{mapping.iova, mapping.size};
  auto fetched = fetch(whole);
  // What makes no sense is no answer; a refusal is.
  if (!fetched && (connection_.lost() || fetched.error().code() == Errc::protocol)) return fetched;
  if (!fetched) {
    log::warn("no dirty report of [{:#x}, +{:#x}), so all of it counts as written: {}", whole.start.value,
              whole.size, fetched.error().to_string());
    keep_all(whole);
  }
  return {};
}

Result<std::vector<std::byte>> ClientDmaLog::report(const vfio::IovaRange& range) {
  if (!started_) return fail(Errc::state, "the DMA log is not on");
  {
    std::lock_guard lock(mutex_);
    if (distrusted_) return std::unexpected(*distrusted_);
  }
  if (range.size == 0 || range.start.value + (range.size - 1) < range.start.value)
    return fail(Errc::invalid_argument, "a dirty report of a range that is empty or wraps");
  if (peer_.handover) {
    for (std::uint64_t done = 0; done < range.size; done += kOwnReport) {
      auto fetched = fetch({range.start + done, std::min(kOwnReport, range.size - done)});
      // ENOENT: nothing is mapped there.
      if (!fetched && fetched.error().sys_errno() != ENOENT)
        return std::unexpected(std::move(fetched).error());
    }
  } else {
    for (const auto& mapping : dma_.touching(range))
      HANDOVER_TRY(fetch_mapping(mapping));
  }
  std::vector<std::byte> bitmap(bitmap_bytes(range.size, page_size()));
  kept_.take(range.start.value, range.size, page_size(), bitmap);
  return bitmap;
}

}  // namespace handover::vfio_user
