#include "swiftprune/evaluation/divergence.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <tuple>

#include <nlohmann/json.hpp>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/timeline.h"
#include "swiftprune/evaluation/window_runs.h"

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

// What is gathered of one model on one window.
struct WindowTally {
  double nll = 0.0;        // summed
  std::vector<double> kl;  // of each scored token; nothing of the dense model
  std::int64_t same_top = 0;
};

// What is gathered of one model while the text goes by.
struct Tally {
  explicit Tally(std::size_t num_worst) : worst(num_worst) {}
  double nll = 0.0;
  std::vector<double> window_nll;  // means
  std::vector<float> kl;
  std::vector<double> window_kl;  // means
  double kl_sum = 0.0;
  std::int64_t same_top = 0;
  WorstTokens worst;
  double seconds = 0.0;
};

nlohmann::json to_json(const DivergentToken& t) {
  const auto likely = [](const std::vector<LikelyToken>& tokens) {
    nlohmann::json list = nlohmann::json::array();
    for (const LikelyToken& token : tokens) list.push_back({token.id, token.probability});
    return list;
  };
  return nlohmann::json::array({t.part, t.window, t.position, t.kl, t.dense_probability, t.pruned_probability,
                                likely(t.dense), likely(t.pruned)});
}

DivergentToken token_of(const nlohmann::json& t) {
  const auto likely = [](const nlohmann::json& list) {
    std::vector<LikelyToken> tokens;
    for (const auto& token : list) tokens.push_back({token[0].get<std::int32_t>(), token[1].get<double>()});
    return tokens;
  };
  return {t[0].get<std::size_t>(),
          t[1].get<std::int64_t>(),
          t[2].get<std::int64_t>(),
          t[3].get<double>(),
          t[4].get<double>(),
          t[5].get<double>(),
          likely(t[6]),
          likely(t[7])};
}

class Comparison {
 public:
  Comparison(std::span<const Model* const> models, TextForwards& forwards, const CompareOptions& options,
             Communicator& ranks)
      : models_(models), forwards_(forwards), options_(options), ranks_(ranks), scores_(models.size()) {
    for (std::size_t m = 0; m < models.size(); ++m) tallies_.emplace_back(options.num_worst);
  }

  void run(std::span<const ScoredWindows> parts) {
    for (const ScoredWindows& part : parts) total_steps_ += part.windows.num_windows() * layers();
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const ScoredWindows& part = parts[p];
      const WindowRuns runs(forwards_, part.windows, ranks_);
      windows_.assign(models_.size(), std::vector<WindowTally>(at(part.windows.num_windows())));
      for (const auto& [first, count] : runs.of_rank(ranks_.rank())) run_group(part, p, first, count);
      for (int rank = 0; rank < ranks_.size(); ++rank) {
        for (const auto& [first, count] : runs.of_rank(rank)) share_windows(rank, part, first, count);
      }
      tally_windows(part);
      num_tokens_ += part.num_scored();
      num_forwarded_ += std::ssize(part.windows.ids);
    }
    for (Tally& tally : tallies_) share_worst(tally);
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
      const TimelineStage stage("forward");
      forwards_.run(m, part.windows, first, count, [&](std::int64_t n) {
        steps_ += n;
        if (options_.progress) options_.progress("compare", steps_, total_steps_);
      });
      tallies_[m].seconds += seconds_since(start);
    }
    for (std::int64_t w = 0; w < count; ++w) {
      for (std::int64_t target = part.first_target[at(first + w)]; target < part.windows.seqlen;
           target += forwards_.rows_a_score()) {
        check_interrupt();
        run_rows(part, p, w, first + w, target);
      }
    }
  }

  // Of the rank that has these windows, to all.
  void share_windows(int rank, const ScoredWindows& part, std::int64_t first, std::int64_t count) {
    if (ranks_.size() == 1) return;
    for (std::size_t m = 0; m < models_.size(); ++m) {
      for (std::int64_t w = first; w < first + count; ++w) {
        WindowTally& window = windows_[m][at(w)];
        if (m > 0) window.kl.resize(at(part.windows.seqlen - part.first_target[at(w)]));
        ranks_.broadcast(rank, std::as_writable_bytes(std::span(&window.nll, 1)));
        ranks_.broadcast(rank, std::as_writable_bytes(std::span(window.kl)));
        ranks_.broadcast(rank, std::as_writable_bytes(std::span(&window.same_top, 1)));
      }
    }
  }

  // In the order of the text.
  void tally_windows(const ScoredWindows& part) {
    for (std::size_t m = 0; m < models_.size(); ++m) {
      Tally& tally = tallies_[m];
      for (std::size_t w = 0; w < windows_[m].size(); ++w) {
        const WindowTally& window = windows_[m][w];
        tally.nll += window.nll;
        tally.window_nll.push_back(window.nll /
                                   static_cast<double>(part.windows.seqlen - part.first_target[w]));
        const double kl_before = tally.kl_sum;
        for (const double kl : window.kl) {
          tally.kl.push_back(static_cast<float>(kl));
          tally.kl_sum += kl;
        }
        if (!window.kl.empty())
          tally.window_kl.push_back((tally.kl_sum - kl_before) / static_cast<double>(window.kl.size()));
        tally.same_top += window.same_top;
      }
    }
  }

  // A rank's worst tokens stand behind those of the ranks before, as its windows of each part do.
  void share_worst(Tally& tally) {
    if (ranks_.size() == 1) return;
    nlohmann::json own = nlohmann::json::array();
    for (const DivergentToken& token : tally.worst.take()) own.push_back(to_json(token));
    std::vector<DivergentToken> all;
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      std::string text = rank == ranks_.rank() ? own.dump() : std::string();
      broadcast_text(ranks_, rank, text);
      for (const auto& token : nlohmann::json::parse(text)) all.push_back(token_of(token));
    }
    // As they come in one process, of which equal ones stay in their order.
    std::stable_sort(all.begin(), all.end(), [](const DivergentToken& a, const DivergentToken& b) {
      return std::tie(a.part, a.window, a.position) < std::tie(b.part, b.window, b.position);
    });
    tally.worst = WorstTokens(options_.num_worst);
    for (DivergentToken& token : all) {
      if (tally.worst.wants(token)) tally.worst.add(std::move(token));
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
      WindowTally& of_window = windows_[m][at(window)];
      of_window.nll -= std::accumulate(scores.log_probs.begin(), scores.log_probs.end(), 0.0);
      if (m == 0) continue;
      forwards_.divergences(m, kl);
      for (std::size_t r = 0; r < rows.size(); ++r) {
        of_window.kl.push_back(kl[r]);
        if (scores.best[r] == scores_[0].best[r]) ++of_window.same_top;
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
    d.window_kl = std::move(tally.window_kl);
    d.top1 = static_cast<double>(tally.same_top) / n;
    d.perplexity_ratio = std::exp(pruned.mean_nll - dense.mean_nll);
    d.ratio_interval = ratio_interval(dense.window_nll, pruned.window_nll);
    d.worst = tally.worst.take();
    return d;
  }

  std::span<const Model* const> models_;
  TextForwards& forwards_;
  CompareOptions options_;
  Communicator& ranks_;
  std::vector<RowScores> scores_;                  // of the rows in hand
  std::vector<std::vector<WindowTally>> windows_;  // of the part in hand, by model
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

std::optional<PairedInterval> paired_interval(std::span<const double> a, std::span<const double> b) {
  expect(a.size() == b.size(), "paired_interval: pairs");
  const std::size_t n = a.size();
  if (n < 2) return std::nullopt;
  double mean = 0.0, squares = 0.0;
  for (std::size_t i = 0; i < n; ++i) mean += (b[i] - a[i]) / static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) squares += std::pow(b[i] - a[i] - mean, 2);
  const double error = std::sqrt(squares / static_cast<double>(n - 1) / static_cast<double>(n));
  return PairedInterval{mean, student_t(n - 1) * error};
}

std::optional<RatioInterval> ratio_interval(std::span<const double> dense_nll,
                                            std::span<const double> pruned_nll) {
  const auto interval = paired_interval(dense_nll, pruned_nll);
  if (!interval) return std::nullopt;
  return RatioInterval{std::exp(interval->mean - interval->half), std::exp(interval->mean + interval->half)};
}

std::vector<ComparedModel> compare_models(std::span<const Model* const> models, TextForwards& forwards,
                                          std::span<const ScoredWindows> parts, const CompareOptions& options,
                                          Communicator& ranks) {
  expect(!models.empty() && forwards.num_models() == models.size() && !parts.empty(),
         "compare_models: models and text");
  Comparison comparison(models, forwards, options, ranks);
  comparison.run(parts);
  return comparison.take_results();
}

}  // namespace swiftprune
