// SHA-256 (FIPS 180-4, by OpenSSL's libcrypto), for records: which files and which token ids a result came from.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace swiftprune {

class Sha256 {
 public:
  Sha256();
  void update(std::span<const std::byte> bytes);
  void update(std::string_view bytes) { update(std::as_bytes(std::span(bytes.data(), bytes.size()))); }
  // 64 lower-case hexadecimal digits; the object is used up.
  std::string hex_digest();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

std::string sha256_hex(std::string_view bytes);
// Reads the file in pieces. A file that cannot be read: Error{kBadInput}.
std::string sha256_file(const std::filesystem::path& file);

}  // namespace swiftprune
