// How likely the model takes a token to be, from logits: log-probabilities at temperature 1.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace swiftprune {

struct TokenChance {
  std::int32_t id = 0;
  double logprob = 0.0;
};

struct TokenChances {
  double logprob = 0.0;          // of the token itself
  std::vector<TokenChance> top;  // the likeliest, in falling order, ties to the lower id
};

// top: how many of the likeliest. Throws Error{kFailure} when the logits are not finite.
TokenChances token_chances(std::span<const float> logits, std::int32_t token, std::int64_t top);

}  // namespace swiftprune
