#pragma once

#include <string>

#include "handover/base/result.h"
#include "handover/channel/address.h"

namespace handover::cli {

/// A file or an address as people type it: `tcp:`, `unix:`, `fd:`, `file:` and `exec:` are addresses, all
/// else is a path.
Result<Address> file_or_address(const std::string& text);

/// Where a stream is saved to, so that a file has its name only when it is whole.
///
/// A file is written under another name in the same folder and removed again unless keep() was called.  What
/// is no plain file (a command, /dev/null) is written as it is.
class SaveFile {
 public:
  static Result<SaveFile> create(const std::string& text);
  SaveFile(SaveFile&& other) noexcept;
  SaveFile& operator=(SaveFile&&) = delete;
  ~SaveFile();

  /// Where to write.
  const Address& address() const { return address_; }
  /// Gives the file its name, replacing one that has it, and makes that durable.
  Status keep();

 private:
  SaveFile(Address address, std::string final_name)
      : address_(std::move(address)), final_name_(std::move(final_name)) {}

  Address address_;
  std::string final_name_;  // empty: nothing to rename
};

}  // namespace handover::cli
