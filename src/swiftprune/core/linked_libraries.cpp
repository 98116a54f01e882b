#include "swiftprune/core/linked_libraries.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <pcre2.h>
#include <utf8proc.h>
#include <zlib.h>
#include <zstd.h>

#include <oneapi/dnnl/dnnl.h>
#include <nlohmann/json.hpp>

namespace swiftprune {
namespace {

std::string pcre2_version() {
  std::string version(64, '\0');
  const int size = ::pcre2_config(PCRE2_CONFIG_VERSION, version.data());  // with the end and the date
  version.resize(size > 0 ? static_cast<std::size_t>(size) - 1 : 0);
  return version.substr(0, version.find(' '));
}

std::string dnnl_version() {
  const dnnl_version_t& version = *::dnnl_version();
  return fmt::format("{}.{}.{}", version.major, version.minor, version.patch);
}

}  // namespace

std::vector<LinkedLibrary> linked_libraries() {
  return {{"oneDNN", dnnl_version()},
          {"OpenSSL", ::OpenSSL_version(OPENSSL_VERSION_STRING)},
          {"PCRE2", pcre2_version()},
          {"utf8proc", ::utf8proc_version()},
          {"sentencepiece", SWIFTPRUNE_SENTENCEPIECE_VERSION},
          {"zstd", ::ZSTD_versionString()},
          {"zlib", ::zlibVersion()},
          {"cpp-httplib", SWIFTPRUNE_HTTPLIB_VERSION},
          {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
          {"nlohmann json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                                        NLOHMANN_JSON_VERSION_PATCH)}};
}

}  // namespace swiftprune
