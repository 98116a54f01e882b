#include "swiftprune/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace swiftprune {

std::int32_t Sampler::next(std::span<const float> logits) {
  const auto best =
      static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (options_.temperature <= 0.0) return best;
  const double top = double{logits[static_cast<std::size_t>(best)]};
  std::vector<double> weight(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i)
    weight[i] = std::exp((double{logits[i]} - top) / options_.temperature);

  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  if (options_.top_p < 1.0) {
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return weight[static_cast<std::size_t>(a)] > weight[static_cast<std::size_t>(b)];
    });
    double kept = 0.0;
    std::size_t count = 0;
    while (count < order.size() && kept < options_.top_p * total)
      kept += weight[static_cast<std::size_t>(order[count++])];
    order.resize(count);
    total = kept;
  }
  // A draw of our own: std::uniform_real_distribution differs between standard libraries.
  double point = static_cast<double>(generator_() >> 11) * 0x1p-53 * total;
  for (const std::int32_t id : order) {
    point -= weight[static_cast<std::size_t>(id)];
    if (point < 0.0) return id;
  }
  return order.back();
}

}  // namespace swiftprune
