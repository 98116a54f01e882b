// How far pruned models are from the dense one, token by token on the same text: Kullback-Leibler divergence
// of the next-token distributions, agreement of the likeliest token, and the ratio of the perplexities.
// Streaming: hidden states of a group of windows and logits of a bounded number of tokens are in memory,
// never those of the whole text.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/evaluation/perplexity.h"

namespace swiftprune {

struct LikelyToken {
  std::int32_t id = 0;
  double probability = 0.0;
};

// A token whose distributions differ much.
struct DivergentToken {
  std::size_t part = 0;       // of the scored windows
  std::int64_t window = 0;    // of the part
  std::int64_t position = 0;  // of the token in its window
  double kl = 0.0;
  double dense_probability = 0.0, pruned_probability = 0.0;  // of the text's own token
  std::vector<LikelyToken> dense, pruned;                    // likeliest first
};

struct RatioInterval {
  double low = 0.0, high = 0.0;  // 95 %
};

struct Divergence {
  double mean_kl = 0.0, p99_kl = 0.0, max_kl = 0.0;  // KL(dense || pruned), nats
  double top1 = 0.0;                                 // share of tokens with the same likeliest token
  double perplexity_ratio = 0.0;
  std::optional<RatioInterval> ratio_interval;  // from two windows on
  std::vector<double> window_kl;                // mean of each window
  std::vector<DivergentToken> worst;            // largest first, of stretches of kWorstStretch tokens
};
inline constexpr std::int64_t kWorstStretch = 512;

struct ComparedModel {
  PerplexityResult perplexity;
  std::optional<Divergence> divergence;  // nothing for the dense model
  double forward_seconds = 0.0;          // blocks and head
};

struct CompareOptions {
  std::size_t num_worst = 8;
  ProgressFn progress;  // stage "compare", in windows·blocks of all models
};

// models[0] is the dense one; forwards: of these models, which have one vocabulary. Throws Error{kBadInput}
// when a loss is not finite. ranks: each runs on some of the windows, and all have the result, the same bits as of one
// process.
std::vector<ComparedModel> compare_models(std::span<const Model* const> models, TextForwards& forwards,
                                          std::span<const ScoredWindows> parts, const CompareOptions& options,
                                          Communicator& ranks = alone());

// Throws Error{kBadInput} naming `other` when it has another number of tokens.
void require_same_vocabulary(const Model& dense, const Model& other);

// Mean ± half: 95 % interval of the mean of b - a in pairs, half = t·(standard error) with Student's t of n - 1 degrees of
// freedom. Nothing for fewer than two pairs.
struct PairedInterval {
  double mean = 0.0, half = 0.0;
};
std::optional<PairedInterval> paired_interval(std::span<const double> a, std::span<const double> b);
// exp of the interval of the differences of window losses (pruned - dense).
std::optional<RatioInterval> ratio_interval(std::span<const double> dense_nll,
                                            std::span<const double> pruned_nll);
// The value that `share` of the values do not exceed (nearest rank).
double quantile(std::vector<float> values, double share);

}  // namespace swiftprune
