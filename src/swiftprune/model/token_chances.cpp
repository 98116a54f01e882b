#include "swiftprune/model/token_chances.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "swiftprune/core/error.h"

namespace swiftprune {

TokenChances token_chances(std::span<const float> logits, std::int32_t token, std::int64_t top) {
  expect(token >= 0 && static_cast<std::size_t>(token) < logits.size(), "token_chances: a known token");
  const double highest = double{*std::max_element(logits.begin(), logits.end())};
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(double{logit} - highest);
  const double norm = highest + std::log(sum);
  if (!std::isfinite(norm)) {
    fail(ErrorKind::kFailure,
         "the logits are not finite; weights or activations overflow (try --compute f32)");
  }
  const auto logprob = [&](std::int32_t id) { return double{logits[static_cast<std::size_t>(id)]} - norm; };
  TokenChances chances{logprob(token), {}};
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto count = std::min<std::size_t>(static_cast<std::size_t>(top), order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const float x = logits[static_cast<std::size_t>(a)];
                      const float y = logits[static_cast<std::size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  for (std::size_t i = 0; i < count; ++i) chances.top.push_back({order[i], logprob(order[i])});
  return chances;
}

}  // namespace swiftprune
