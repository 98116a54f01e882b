// The next token from logits: greedy, or drawn at a temperature from the smallest set that holds top_p of the
// probability.
#pragma once

#include <cstdint>
#include <random>
#include <span>

namespace swiftprune {

struct SamplerOptions {
  double temperature = 0.0;  // 0: greedy
  double top_p = 1.0;        // (0, 1]
  std::uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options), generator_(options.seed) {}
  std::int32_t next(std::span<const float> logits);

 private:
  SamplerOptions options_;
  std::mt19937_64 generator_;
};

}  // namespace swiftprune
