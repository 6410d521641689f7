#include "vfio_kernel/node_users.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace handover::vfio_kernel {
namespace {

namespace fs = std::filesystem;

std::size_t open_in(const fs::path& process, const std::vector<std::string>& paths) {
  std::size_t count = 0;
  std::error_code gone;  // or another user's
  for (const auto& fd : fs::directory_iterator(process / "fd", gone)) {
    std::error_code closed;
    const auto target = fs::read_symlink(fd.path(), closed);
    if (!closed && std::ranges::find(paths, target.string()) != paths.end()) ++count;
  }
  return count;
}

std::string name_of(const fs::path& process) {
  std::string name;
  std::getline(std::ifstream(process / "comm"), name);
  return fmt::format("process {} ({})", process.filename().string(), name.empty() ? "?" : name);
}

bool is_number(const std::string& text) {
  return text.find_first_not_of("0123456789") == std::string::npos;
}

}  // namespace

NodeUsers users_of(const std::vector<std::string>& paths, std::size_t own_open) {
  NodeUsers users;
  const auto self = std::to_string(::getpid());
  std::error_code none;
  fs::directory_iterator processes("/proc", none);
  for (; !none && processes != fs::directory_iterator(); processes.increment(none)) {
    const auto& process = processes->path();
    const auto id = process.filename().string();
    if (!is_number(id)) continue;
    const auto count = open_in(process, paths);
    if (id == self)
      users.this_process = count > own_open;
    else if (count > 0)
      users.others.push_back(name_of(process));
  }
  return users;
}

std::string NodeUsers::to_string() const {
  auto all = others;
  if (this_process) all.insert(all.begin(), "this process");
  return all.empty() ? "another process" : fmt::format("{}", fmt::join(all, ", "));
}

}  // namespace handover::vfio_kernel
