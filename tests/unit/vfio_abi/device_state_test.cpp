#include "handover/vfio_abi/device_state.h"

#include <gtest/gtest.h>

#include <map>
#include <sstream>

namespace handover::vfio {
namespace {

const std::map<std::string, DeviceState> kShort = {
    {"R", DeviceState::running},   {"RP", DeviceState::running_p2p},   {"PC", DeviceState::pre_copy},
    {"S", DeviceState::stop},      {"PCP", DeviceState::pre_copy_p2p}, {"SC", DeviceState::stop_copy},
    {"RE", DeviceState::resuming},
};

// The full path tables of the VFIO uAPI, as people write them: "from to: way", "-" for no step, "!" for
// refused.
struct Table {
  std::uint64_t features;
  const char* header;
  std::vector<const char*> rows;
};
const Table kTables[] = {
    {0x1,
     "R | S | SC | RE",
     {
         "R | - | S | S SC | S RE",
         "S | R | - | SC | RE",
         "SC | S R | S | - | S RE",
         "RE | S R | S | S SC | -",
     }},
    {0x3,
     "R | RP | S | SC | RE",
     {
         "R | - | RP | RP S | RP S SC | RP S RE",
         "RP | R | - | S | S SC | S RE",
         "S | RP R | RP | - | SC | RE",
         "SC | S RP R | S RP | S | - | S RE",
         "RE | S RP R | S RP | S | S SC | -",
     }},
    {0x5,
     "R | PC | S | SC | RE",
     {
         "R | - | PC | S | S SC | S RE",
         "PC | R | - | R S | SC | R S RE",
         "S | R | R PC | - | SC | RE",
         "SC | S R | ! | S | - | S RE",
         "RE | S R | S R PC | S | S SC | -",
     }},
    {0x7,
     "R | RP | PC | PCP | S | SC | RE",
     {
         "R | - | RP | PC | RP PCP | RP S | RP S SC | RP S RE",
         "RP | R | - | R PC | PCP | S | S SC | S RE",
         "PC | R | R RP | - | PCP | R RP S | PCP SC | R RP S RE",
         "PCP | RP R | RP | PC | - | RP S | SC | RP S RE",
         "S | RP R | RP | RP R PC | RP PCP | - | SC | RE",
         "SC | S RP R | S RP | ! | ! | S | - | S RE",
         "RE | S RP R | S RP | S RP R PC | S RP PCP | S | S SC | -",
     }},
};

std::vector<std::string> cells_of(const char* row) {
  std::vector<std::string> cells;
  std::stringstream text(row);
  for (std::string cell; std::getline(text, cell, '|');) {
    const auto first = cell.find_first_not_of(' ');
    cells.push_back(cell.substr(first, cell.find_last_not_of(' ') - first + 1));
  }
  return cells;
}

std::string text_of(const Result<std::vector<DeviceState>>& path) {
  if (!path) return "!";
  std::string text;
  for (auto state : *path)
    for (const auto& [name, known] : kShort)
      if (known == state) text += (text.empty() ? "" : " ") + name;
  return text.empty() ? "-" : text;
}

TEST(DevicePath, IsTheOneOfEveryCellOfTheTables) {
  int cells = 0;
  for (const auto& table : kTables) {
    const auto columns = cells_of(table.header);
    for (const auto* row : table.rows) {
      const auto parts = cells_of(row);
      ASSERT_EQ(parts.size(), columns.size() + 1);
      for (std::size_t i = 0; i < columns.size(); ++i, ++cells)
        EXPECT_EQ(text_of(path_between(kShort.at(parts[0]), kShort.at(columns[i]), table.features)),
                  parts[i + 1])
            << "features " << table.features << ", " << parts[0] << " to " << columns[i];
    }
  }
  EXPECT_EQ(cells, 16 + 25 + 25 + 49);
}

TEST(DevicePath, ConsistsOfArcsThatTheDeviceHas) {
  for (std::uint64_t features : {1, 3, 5, 7})
    for (std::uint32_t from = 1; from < kDeviceStateCount; ++from)
      for (std::uint32_t to = 1; to < kDeviceStateCount; ++to) {
        const auto path = path_between(*device_state_from(from), *device_state_from(to), features);
        if (!path) continue;
        auto at = *device_state_from(from);
        for (auto next : *path) {
          EXPECT_NE(find_arc(at, next, features), nullptr) << to_string(at) << " to " << to_string(next);
          at = next;
        }
        EXPECT_EQ(at, *device_state_from(to));
      }
}

TEST(DevicePath, NeverTouchesTheErrorState) {
  for (std::uint32_t number = 0; number < kDeviceStateCount; ++number) {
    EXPECT_FALSE(path_between(DeviceState::error, *device_state_from(number), 7));
    EXPECT_FALSE(path_between(*device_state_from(number), DeviceState::error, 7));
  }
}

TEST(DevicePath, IsRefusedForStatesThatTheDeviceLacks) {
  EXPECT_EQ(path_between(DeviceState::running, DeviceState::running_p2p, 1).error().code(),
            Errc::unsupported);
  EXPECT_FALSE(path_between(DeviceState::running, DeviceState::pre_copy, 3));
  EXPECT_FALSE(path_between(DeviceState::running, DeviceState::pre_copy_p2p, 5));
  EXPECT_FALSE(path_between(DeviceState::running, DeviceState::stop, 0));
  EXPECT_TRUE(path_between(DeviceState::running, DeviceState::running, 0));
}

TEST(DeviceState, NumbersFromEightOnAreNoStates) {
  EXPECT_EQ(device_state_from(7), DeviceState::pre_copy_p2p);
  for (std::uint32_t number : {8u, 9u, 0xabcdu, 0xffffffffu})
    EXPECT_FALSE(device_state_from(number)) << number;
}

TEST(DeviceArcs, OpenAndEndSessionsAsTheStatesDemand) {
  for (const auto& arc : device_arcs()) {
    const auto in_session = [](DeviceState state) {
      return is_saving(state) || state == DeviceState::resuming;
    };
    const auto expected = in_session(arc.from) ? (in_session(arc.to) ? Session::keeps : Session::ends)
                                               : (in_session(arc.to) ? Session::opens : Session::none);
    EXPECT_EQ(arc.session, expected) << to_string(arc.from) << " to " << to_string(arc.to);
  }
}

}  // namespace
}  // namespace handover::vfio
