// The next token from logits: greedy, or drawn at a temperature from the tokens that min_p, top_k and top_p
// leave, in this order.
#pragma once

#include <cstdint>
#include <random>
#include <span>

namespace swiftprune {

struct SamplerOptions {
  double temperature = 0.0;  // 0: greedy
  double top_p = 1.0;        // (0, 1]: the smallest set of the likeliest that holds it
  std::uint64_t seed = 0;
  std::int64_t top_k = 0;  // so many of the likeliest; 0: all
  double min_p = 0.0;      // [0, 1]: at least this part of the likeliest one's probability
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options), generator_(options.seed) {}
  // Logits of -infinity are never drawn. Throws Error{kFailure} when one is NaN or +infinity, or none can be
  // drawn.
  std::int32_t next(std::span<const float> logits);

 private:
  SamplerOptions options_;
  std::mt19937_64 generator_;
};

}  // namespace swiftprune
