#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/temp_folder.h"

/// Streams that QEMU wrote, and what is known of them.
namespace handover::test {

struct QemuStream {
  std::string name;
  std::string path;  ///< of the file, or of the main channel's bytes
  nlohmann::json facts;
  bool several_channels = false;
};

inline std::vector<QemuStream> qemu_streams(const std::filesystem::path& folder) {
  const auto manifest = nlohmann::json::parse(read_whole_file(folder / "manifest.json"));
  std::vector<QemuStream> streams;
  for (const auto& [name, entry] : manifest.items()) {
    const bool capture = entry["kind"] == "capture";
    streams.push_back({name, (capture ? folder / name / "main.bin" : folder / name).string(), entry["facts"],
                       entry["facts"].contains("multifd")});
  }
  return streams;
}

/// The part of `facts` that a tool can know which sees the main channel alone.
inline nlohmann::json main_channel_facts(const QemuStream& stream) {
  nlohmann::json facts = stream.facts;
  for (const char* other : {"loads_back_in_qemu", "return_path_messages", "source_events", "dest_events",
                            "query_migrate_source", "multifd", "multifd_normal_pages", "multifd_zero_pages"})
    facts.erase(other);
  if (!stream.several_channels) return facts;
  for (auto& block : facts["ram_blocks"]) {
    block.erase("sha256");
    block.erase("pages_sent_distinct");
  }
  if (facts.contains("vfio"))
    for (auto& device : facts["vfio"])
      device = {{"main_channel", device["main_channel"]}};
  return facts;
}

/// Every place where `expected` has a value that `actual` has not; what only `actual` has is fine.
inline void find_differences(const nlohmann::json& expected, const nlohmann::json& actual,
                             const std::string& where, std::vector<std::string>& differences) {
  if (expected.is_object() && actual.is_object()) {
    for (const auto& [key, value] : expected.items())
      find_differences(value, actual.contains(key) ? actual[key] : nlohmann::json("missing"),
                       where + "/" + key, differences);
  } else if (expected.is_array() && actual.is_array() && expected.size() == actual.size()) {
    for (std::size_t i = 0; i < expected.size(); ++i)
      find_differences(expected[i], actual[i], where + "/" + std::to_string(i), differences);
  } else if (expected != actual) {
    differences.push_back(where + ": " + expected.dump() + " was expected, not " + actual.dump());
  }
}

}  // namespace handover::test
