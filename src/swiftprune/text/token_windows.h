// Token ids cut into windows of one length.
#pragma once
#include <cstdint>
#include <span>
#include <vector>
namespace swiftprune {
struct TokenWindows {
  std::int64_t seqlen = 0;
  std::vector<std::int32_t> ids;
  std::int64_t num_windows() const { return static_cast<std::int64_t>(ids.size()) / seqlen; }
  std::span<const std::int32_t> window(std::int64_t i) const {
    return {ids.data() + i * seqlen, static_cast<std::size_t>(seqlen)};
  }
};
}  // namespace swiftprune
