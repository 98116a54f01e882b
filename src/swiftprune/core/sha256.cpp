#include "swiftprune/core/sha256.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"

namespace swiftprune {

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
    fail(ErrorKind::kFailure, "SHA-256: libcrypto does not offer it; is OpenSSL's configuration damaged?");
  }
}

void Sha256::update(std::span<const std::byte> bytes) {
  expect(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1, "a hash that takes bytes");
}

std::string Sha256::hex_digest() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned size = 0;
  expect(EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1 && size == 32, "a digest of 32 bytes");
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex_digest();
}

std::string sha256_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) bad_input("{}: cannot be opened for reading", file.string());
  Sha256 hash;
  std::vector<char> buffer(1 << 20);
  while (in) {
    check_interrupt();
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hash.update(std::string_view(buffer.data(), static_cast<std::size_t>(in.gcount())));
  }
  if (in.bad()) bad_input("{}: reading failed", file.string());
  return hash.hex_digest();
}

}  // namespace swiftprune
