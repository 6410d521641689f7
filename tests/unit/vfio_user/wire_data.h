#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <fstream>
#include <string>
#include <vector>

namespace handover::vfio_user {

inline std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> bytes;
  std::string pair;
  for (char c : text) {
    if (!std::isxdigit(static_cast<unsigned char>(c))) continue;
    pair += c;
    if (pair.size() < 2) continue;
    bytes.push_back(static_cast<std::byte>(std::stoi(pair, nullptr, 16)));
    pair.clear();
  }
  return bytes;
}

/// One complete message of the recorded vectors.
struct WireVector {
  std::string about;  ///< who sent it, and what it says
  std::vector<std::byte> bytes;
};

/// Records of three lines: who | descriptors, the decoded text, the bytes in hex.
inline std::vector<WireVector> wire_vectors() {
  std::ifstream file(HANDOVER_TEST_DATA "/vfio-user/wire-vectors.txt");
  std::vector<WireVector> vectors;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line.starts_with("#")) continue;
    std::string decoded, hex;
    std::getline(file, decoded);
    std::getline(file, hex);
    vectors.push_back({line + "\n" + decoded, from_hex(hex)});
  }
  return vectors;
}

}  // namespace handover::vfio_user
