#pragma once

#include <optional>

#include "handover/vfio_user/protocol.h"
#include "vfio_user/transport/message.h"

namespace handover::vfio_user {

/// Decodes a payload as the message that its header says, through the structures of the protocol, and
/// encodes it again.  Fails where the decoder fails.
inline Result<std::vector<std::byte>> decode_and_encode(const protocol::Header& header,
                                                        std::span<const std::byte> payload) {
  using namespace protocol;
  NativeWriter out;
  const auto fixed = [&]<class T>(std::type_identity<T>) -> Status {
    HANDOVER_ASSIGN(auto message, WithData<T>::decode(payload));
    message.encode(out);
    return {};
  };
  const auto whole = [&]<class T>(std::type_identity<T>, std::span<const std::byte> bytes) -> Status {
    HANDOVER_ASSIGN(auto message, T::decode(bytes));
    message.encode(out);
    return {};
  };
  const auto feature = [&]() -> Status {
    HANDOVER_ASSIGN(auto message, Feature::decode(payload));
    const auto data = message.data;
    message.data = {};
    message.encode(out);
    if (data.empty()) return {};
    switch (message.head.feature()) {
      case kFeatureMigration:
      case kFeatureMigDataSize: {
        HANDOVER_ASSIGN(auto value, decode<U64>(data));
        encode(out, value);
        return {};
      }
      case kFeatureDeviceState: {
        HANDOVER_ASSIGN(auto state, decode<DeviceStateData>(data));
        encode(out, state);
        return {};
      }
      case kFeatureDmaLoggingStart:
        return whole(std::type_identity<DmaLoggingStart>{}, data);
      case kFeatureDmaLoggingReport:
        return whole(std::type_identity<DmaLoggingReport>{}, data);
      case kFeatureMigPrecopyInfo: {
        HANDOVER_ASSIGN(auto info, decode<PrecopyInfoData>(data));
        encode(out, info);
        return {};
      }
    }
    out.bytes(data);
    return {};
  };
  const auto dispatch = [&]() -> Status {
    // A reply without payload: a failure, or a command that has none.
    if (header.is_reply() && payload.empty()) return {};
    const bool reply = header.is_reply();
    switch (static_cast<Command>(header.command)) {
      case Command::version: {
        HANDOVER_ASSIGN(auto version, Version::decode(payload));
        HANDOVER_TRY(parse_capabilities(version.text));
        version.encode(out);
        return {};
      }
      case Command::dma_map:
        return fixed(std::type_identity<DmaMap>{});
      case Command::dma_unmap:
        return whole(std::type_identity<DmaUnmap>{}, payload);
      case Command::device_get_info:
        return fixed(std::type_identity<DeviceInfo>{});
      case Command::device_get_region_info:
        return reply ? whole(std::type_identity<RegionInfoReply>{}, payload)
                     : fixed(std::type_identity<RegionInfoHead>{});
      case Command::device_get_region_io_fds:
        return whole(std::type_identity<RegionIoFds>{}, payload);
      case Command::device_get_irq_info:
        return fixed(std::type_identity<IrqInfo>{});
      case Command::device_set_irqs:
        return fixed(std::type_identity<SetIrqsHead>{});
      case Command::region_read:
      case Command::region_write:
        return fixed(std::type_identity<RegionAccessHead>{});
      case Command::dma_read:
      case Command::dma_write:
        return fixed(std::type_identity<DmaAccessHead>{});
      case Command::device_reset:
        out.bytes(payload);
        return {};
      case Command::dirty_pages:
        return whole(std::type_identity<DirtyPages>{}, payload);
      case Command::region_write_multi:
        return reply ? fixed(std::type_identity<WrittenCount>{})
                     : whole(std::type_identity<RegionWriteMulti>{}, payload);
      case Command::device_feature:
        return feature();
      case Command::mig_data_read:
      case Command::mig_data_write:
        return fixed(std::type_identity<MigDataHead>{});
    }
    return fail(Errc::protocol, "command {}", header.command);
  };
  HANDOVER_TRY(dispatch());
  return out.take();
}

}  // namespace handover::vfio_user
