#include "cli/file_option.h"

namespace handover::cli {

Result<Address> file_address(const std::string& text) {
  if (text.starts_with("file:")) return Address::parse(text);
  if (text.empty()) return fail(Errc::invalid_argument, "the name of a file is empty");
  Address address;
  address.kind = Address::Kind::file;
  address.path = text;
  return address;
}

}  // namespace handover::cli
