#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "support/temp_folder.h"

namespace handover::test {

struct Ran {
  int exit_code = -1;
  std::string out;
  std::string err;
};

/// Runs the `handover` binary with arguments that the shell takes apart.
inline Ran run_handover(const std::string& arguments) {
  TempFolder folder;
  const std::string line =
      "'" HANDOVER_BINARY "' " + arguments + " >'" + (folder / "out") + "' 2>'" + (folder / "err") + "'";
  const int status = std::system(line.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_whole_file(folder / "out"),
          read_whole_file(folder / "err")};
}

}  // namespace handover::test
