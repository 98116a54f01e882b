#include "swiftprune/evaluation/divergence.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr std::size_t kNumLikely = 3;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Scores of some rows of one model.
struct RowScores {
  std::vector<double> log_probs;  // of the targets
  std::vector<std::int32_t> best;
};

std::vector<LikelyToken> likeliest_of(const std::vector<float>& logits, std::int32_t target,
                                      double log_prob) {
  const double log_total = double{logits[static_cast<std::size_t>(target)]} - log_prob;
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const std::size_t count = std::min(kNumLikely, ids.size());
  const auto value = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(),
                    [&](std::int32_t a, std::int32_t b) { return value(a) > value(b); });
  std::vector<LikelyToken> tokens;
  for (std::size_t i = 0; i < count; ++i) {
    tokens.push_back({ids[i], std::exp(double{value(ids[i])} - log_total)});
  }
  return tokens;
}

// The largest divergences, one of each stretch of text.
class WorstTokens {
 public:
  explicit WorstTokens(std::size_t limit) : limit_(limit) {}

  bool wants(const DivergentToken& token) const {
    if (!(token.kl > 0.0)) return false;
    const auto same = find_stretch(token);
    if (same != tokens_.end()) return token.kl > same->kl;
    return tokens_.size() < limit_ || (limit_ > 0 && token.kl > tokens_.back().kl);
  }
  void add(DivergentToken token) {
    const auto same = find_stretch(token);
    if (same != tokens_.end()) {
      tokens_.erase(same);
    } else if (tokens_.size() == limit_) {
      tokens_.pop_back();
    }
    const auto place = std::find_if(tokens_.begin(), tokens_.end(),
                                    [&](const DivergentToken& t) { return t.kl < token.kl; });
    tokens_.insert(place, std::move(token));
  }
  std::vector<DivergentToken> take() { return std::move(tokens_); }

 private:
  std::vector<DivergentToken>::const_iterator find_stretch(const DivergentToken& token) const {
    return std::find_if(tokens_.begin(), tokens_.end(), [&](const DivergentToken& t) {
      return t.part == token.part && t.window == token.window &&
             t.position / kWorstStretch == token.position / kWorstStretch;
    });
  }
  std::size_t limit_;
  std::vector<DivergentToken> tokens_;  // largest first
};

// What is gathered of one model while the text goes by.
struct Tally {
  explicit Tally(std::size_t num_worst) : worst(num_worst) {}
  double nll = 0.0;
  std::vector<double> window_nll;  // sums
  std::vector<float> kl;
  double kl_sum = 0.0;
  std::int64_t same_top = 0;
  WorstTokens worst;
  double seconds = 0.0;
};

class Comparison {
 public:
  Comparison(std::span<const Model* const> models, TextForwards& forwards, const CompareOptions& options)
      : models_(models), forwards_(forwards), options_(options), scores_(models.size()) {
    for (std::size_t m = 0; m < models.size(); ++m) tallies_.emplace_back(options.num_worst);
  }

  void run(std::span<const ScoredWindows> parts) {
    for (const ScoredWindows& part : parts) total_steps_ += part.windows.num_windows() * layers();
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const TokenWindows& windows = parts[p].windows;
      const std::int64_t group =
          std::max<std::int64_t>(1, forwards_.prepare(windows.seqlen) / windows.seqlen);
      for (std::int64_t first = 0; first < windows.num_windows(); first += group) {
        run_group(parts[p], p, first, std::min(group, windows.num_windows() - first));
      }
      num_tokens_ += parts[p].num_scored();
      num_forwarded_ += std::ssize(windows.ids);
    }
  }

  std::vector<ComparedModel> take_results() {
    std::vector<ComparedModel> results;
    for (std::size_t m = 0; m < models_.size(); ++m) {
      Tally& tally = tallies_[m];
      ComparedModel& result = results.emplace_back();
      PerplexityResult& p = result.perplexity;
      p.mean_nll = tally.nll / static_cast<double>(num_tokens_);
      if (!std::isfinite(p.mean_nll)) {
        bad_input("{}: the loss is not finite; weights or activations overflow (try --compute f32)",
                  models_[m]->checkpoint().folder().string());
      }
      p.perplexity = std::exp(p.mean_nll);
      p.num_tokens = num_tokens_;
      p.num_forwarded = num_forwarded_;
      p.window_nll = std::move(tally.window_nll);
      result.forward_seconds = tally.seconds;
      if (m > 0) result.divergence = divergence(tally, results[0].perplexity, p);
    }
    return results;
  }

 private:
  std::int64_t layers() const {
    std::int64_t sum = 0;
    for (const Model* model : models_) sum += model->config().num_layers();
    return sum;
  }

  void run_group(const ScoredWindows& part, std::size_t p, std::int64_t first, std::int64_t count) {
    for (std::size_t m = 0; m < models_.size(); ++m) {
      const auto start = std::chrono::steady_clock::now();
      forwards_.run(m, part.windows, first, count, [&](std::int64_t n) {
        steps_ += n;
        if (options_.progress) options_.progress("compare", steps_, total_steps_);
      });
      tallies_[m].seconds += seconds_since(start);
    }
    for (std::int64_t w = 0; w < count; ++w) {
      const std::int64_t first_target = part.first_target[static_cast<std::size_t>(first + w)];
      for (Tally& tally : tallies_) tally.window_nll.push_back(0.0);
      for (std::int64_t target = first_target; target < part.windows.seqlen;
           target += forwards_.rows_a_score()) {
        check_interrupt();
        run_rows(part, p, w, first + w, target);
      }
      for (Tally& tally : tallies_) {
        tally.nll += tally.window_nll.back();
        tally.window_nll.back() /= static_cast<double>(part.windows.seqlen - first_target);
      }
    }
  }

  // As many tokens from `target` on as are scored at a time, or up to the window's end.
  void run_rows(const ScoredWindows& part, std::size_t p, std::int64_t group_window, std::int64_t window,
                std::int64_t target) {
    const std::int64_t seqlen = part.windows.seqlen;
    const std::int64_t count = std::min(forwards_.rows_a_score(), seqlen - target);
    const auto targets = part.windows.window(window).subspan(static_cast<std::size_t>(target),
                                                             static_cast<std::size_t>(count));
    std::vector<std::int64_t> rows(targets.size());
    std::iota(rows.begin(), rows.end(), group_window * seqlen + target - 1);
    std::vector<double> kl(targets.size());
    for (std::size_t m = 0; m < models_.size(); ++m) {
      Tally& tally = tallies_[m];
      RowScores& scores = scores_[m];
      const auto start = std::chrono::steady_clock::now();
      scores.log_probs.resize(rows.size());
      scores.best.resize(rows.size());
      forwards_.score(m, rows, targets, scores.log_probs, scores.best);
      tally.seconds += seconds_since(start);
      tally.window_nll.back() -= std::accumulate(scores.log_probs.begin(), scores.log_probs.end(), 0.0);
      if (m == 0) continue;
      forwards_.divergences(m, kl);
      for (std::size_t r = 0; r < rows.size(); ++r) {
        tally.kl.push_back(static_cast<float>(kl[r]));
        tally.kl_sum += kl[r];
        if (scores.best[r] == scores_[0].best[r]) ++tally.same_top;
        const auto row = static_cast<std::int64_t>(r);
        DivergentToken token{p, window, target + row, kl[r], 0.0, 0.0, {}, {}};
        if (!tally.worst.wants(token)) continue;
        token.dense_probability = std::exp(scores_[0].log_probs[r]);
        token.pruned_probability = std::exp(scores.log_probs[r]);
        token.dense = likeliest_of(forwards_.logits(0, row), targets[r], scores_[0].log_probs[r]);
        token.pruned = likeliest_of(forwards_.logits(m, row), targets[r], scores.log_probs[r]);
        tally.worst.add(std::move(token));
      }
    }
  }

  static Divergence divergence(Tally& tally, const PerplexityResult& dense, const PerplexityResult& pruned) {
    Divergence d;
    const auto n = static_cast<double>(pruned.num_tokens);
    d.mean_kl = tally.kl_sum / n;
    d.max_kl = double{*std::max_element(tally.kl.begin(), tally.kl.end())};
    d.p99_kl = quantile(std::move(tally.kl), 0.99);
    d.top1 = static_cast<double>(tally.same_top) / n;
    d.perplexity_ratio = std::exp(pruned.mean_nll - dense.mean_nll);
    d.ratio_interval = ratio_interval(dense.window_nll, pruned.window_nll);
    d.worst = tally.worst.take();
    return d;
  }

  std::span<const Model* const> models_;
  TextForwards& forwards_;
  CompareOptions options_;
  std::vector<RowScores> scores_;  // of the rows in hand
  std::vector<Tally> tallies_;
  std::int64_t num_tokens_ = 0, num_forwarded_ = 0;
  std::int64_t steps_ = 0, total_steps_ = 0;
};

// 97.5 % point of Student's t: exact to three digits up to 10 degrees of freedom, then Cornish-Fisher's
// expansion around the normal distribution (Abramowitz and Stegun 26.7.5), good to 1e-3 there.
double student_t(std::size_t degrees) {
  constexpr double kSmall[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228};
  if (degrees <= std::size(kSmall)) return kSmall[degrees - 1];
  const double z = 1.959964, n = static_cast<double>(degrees);
  return z + (std::pow(z, 3) + z) / (4 * n) +
         (5 * std::pow(z, 5) + 16 * std::pow(z, 3) + 3 * z) / (96 * n * n);
}

}  // namespace

void require_same_vocabulary(const Model& dense, const Model& other) {
  const std::int64_t found = other.config().vocab_size, expected = dense.config().vocab_size;
  if (found == expected) return;
  bad_input(
      "{}: found a vocabulary of {} tokens, expected {} as in {}; models with different tokenizers compare "
      "by "
      "bits per byte (swiftprune eval)",
      other.checkpoint().folder().string(), found, expected, dense.checkpoint().folder().string());
}

double quantile(std::vector<float> values, double share) {
  expect(!values.empty() && share > 0.0 && share <= 1.0, "quantile: values and a share of them");
  const auto rank = static_cast<std::ptrdiff_t>(std::ceil(share * static_cast<double>(values.size()))) - 1;
  std::nth_element(values.begin(), values.begin() + rank, values.end());
  return double{values[static_cast<std::size_t>(rank)]};
}

std::optional<RatioInterval> ratio_interval(std::span<const double> dense_nll,
                                            std::span<const double> pruned_nll) {
  expect(dense_nll.size() == pruned_nll.size(), "ratio_interval: pairs");
  const std::size_t n = dense_nll.size();
  if (n < 2) return std::nullopt;
  double mean = 0.0, squares = 0.0;
  for (std::size_t i = 0; i < n; ++i) mean += (pruned_nll[i] - dense_nll[i]) / static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) squares += std::pow(pruned_nll[i] - dense_nll[i] - mean, 2);
  const double error = std::sqrt(squares / static_cast<double>(n - 1) / static_cast<double>(n));
  const double half = student_t(n - 1) * error;
  return RatioInterval{std::exp(mean - half), std::exp(mean + half)};
}

std::vector<ComparedModel> compare_models(std::span<const Model* const> models, TextForwards& forwards,
                                          std::span<const ScoredWindows> parts,
                                          const CompareOptions& options) {
  expect(!models.empty() && forwards.num_models() == models.size() && !parts.empty(),
         "compare_models: models and text");
  Comparison comparison(models, forwards, options);
  comparison.run(parts);
  return comparison.take_results();
}

}  // namespace swiftprune
