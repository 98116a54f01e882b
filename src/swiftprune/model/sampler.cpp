#include "swiftprune/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// The first of the largest.
std::size_t likeliest(std::span<const float> logits) {
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      fail(ErrorKind::kFailure,
           "the logits are not finite; weights or activations overflow (try --compute f32)");
    }
    if (logits[i] > logits[best]) best = i;
  }
  if (logits.empty() || std::isinf(logits[best]))
    fail(ErrorKind::kFailure, "no token is allowed here: every one is excluded");
  return best;
}

// Cuts `order` to the ids that may be drawn, the likeliest first; their joint weight.
double restrict_ids(const SamplerOptions& options, std::span<const double> weight,
                    std::vector<std::int32_t>& order) {
  const auto weight_of = [&](std::int32_t id) { return weight[static_cast<std::size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return weight_of(a) > weight_of(b); });
  std::size_t count = order.size();
  while (count > 1 && weight_of(order[count - 1]) < options.min_p) --count;  // the likeliest weighs 1
  if (options.top_k > 0) count = std::min(count, static_cast<std::size_t>(options.top_k));
  order.resize(count);
  double total = 0.0;
  for (const std::int32_t id : order) total += weight_of(id);
  double kept = 0.0;
  count = 0;
  while (count < order.size() && kept < options.top_p * total) kept += weight_of(order[count++]);
  order.resize(count);
  return kept;
}

}  // namespace

std::int32_t Sampler::next(std::span<const float> logits) {
  const std::size_t best = likeliest(logits);
  if (options_.temperature <= 0.0) return static_cast<std::int32_t>(best);
  const double top = double{logits[best]};
  std::vector<double> weight(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i)
    weight[i] = std::exp((double{logits[i]} - top) / options_.temperature);

  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  if (options_.top_p < 1.0 || options_.top_k > 0 || options_.min_p > 0.0)
    total = restrict_ids(options_, weight, order);
  // A draw of our own: std::uniform_real_distribution differs between standard libraries.
  double point = static_cast<double>(generator_() >> 11) * 0x1p-53 * total;
  for (const std::int32_t id : order) {
    point -= weight[static_cast<std::size_t>(id)];
    if (point < 0.0) return id;
  }
  // Rounding left a rest: the last that has a probability at all.
  while (order.size() > 1 && weight[static_cast<std::size_t>(order.back())] <= 0.0) order.pop_back();
  return order.back();
}

}  // namespace swiftprune
