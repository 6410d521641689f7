#include "stream/inspect/sha256.h"

#include <fmt/core.h>
#include <openssl/evp.h>

#include <cstdlib>

#include "handover/base/log.h"

namespace handover::stream {

void Sha256::Free::operator()(evp_md_ctx_st* context) const {
  EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  if (context_ == nullptr || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
    log::error("the crypto library has no SHA-256");
    std::abort();
  }
}
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
}

std::string Sha256::hex() {
  std::byte digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest), &size);
  return stream::hex(std::span(digest, size));
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (std::byte one : bytes)
    text += fmt::format("{:02x}", std::to_integer<unsigned>(one));
  return text;
}

}  // namespace handover::stream
