#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "handover/vfio_user/protocol.h"
#include "unit/vfio_user/wire_data.h"

namespace handover::vfio_user {

/// One message of a recorded connection.
struct TraceMessage {
  bool from_client = false;
  bool twin = false;
  protocol::Header header;
  std::size_t fds = 0;
  std::vector<std::byte> payload;
};

/// Lines of: direction, channel, id, command, flags, errno, number of descriptors, payload in hex with
/// `(N*xx)` for N equal bytes, or `-`.
inline std::vector<TraceMessage> recorded_trace(const std::string& name) {
  std::ifstream file(HANDOVER_TEST_DATA "/vfio-user/" + name + ".trace");
  EXPECT_TRUE(file) << name;
  std::vector<TraceMessage> messages;
  for (std::string line; std::getline(file, line);) {
    std::istringstream in(line);
    std::string direction, channel, payload;
    TraceMessage message;
    in >> direction >> channel >> message.header.id >> message.header.command >> message.header.flags >>
        message.header.error >> message.fds >> payload;
    message.from_client = direction == "C>S";
    message.twin = channel == "twin";
    for (std::size_t at = 0; at < payload.size() && payload != "-";) {
      if (payload[at] == '(') {
        const auto star = payload.find('*', at), end = payload.find(')', at);
        const auto count = std::stoul(payload.substr(at + 1, star - at - 1));
        message.payload.resize(message.payload.size() + count, from_hex(payload.substr(star + 1, 2)).at(0));
        at = end + 1;
      } else {
        const auto end = std::min(payload.find('(', at), payload.size());
        const auto bytes = from_hex(payload.substr(at, end - at));
        message.payload.insert(message.payload.end(), bytes.begin(), bytes.end());
        at = end;
      }
    }
    message.header.size = static_cast<std::uint32_t>(protocol::kHeaderSize + message.payload.size());
    messages.push_back(std::move(message));
  }
  return messages;
}

inline constexpr const char* kRecordedTraces[] = {"qemu11-gpio-shared-ram", "twin-socket",
                                                  "libvfio-user-v2-source", "libvfio-user-v2-destination",
                                                  "libvfio-user-v1-source", "libvfio-user-v1-destination"};

}  // namespace handover::vfio_user
