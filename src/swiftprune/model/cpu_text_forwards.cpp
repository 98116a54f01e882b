#include <algorithm>
#include <cmath>

#include "swiftprune/core/parallel.h"
#include "swiftprune/model/text_forwards.h"

namespace swiftprune {
namespace {

// One model with its last hidden states, and the rows that were scored last.
struct Runner {
  Runner(const Model& of, const Backend& backend, ComputeType compute)
      : model(of), head(of.load_head(backend, compute)), logits(kLogitRows, of.config().vocab_size) {}

  const Model& model;
  ModelHead head;
  Matrix hidden;                   // [rows, row_size]
  Matrix logits;                   // [kLogitRows, vocab]
  std::vector<double> log_totals;  // log Σ exp of each scored row
};

double kl_divergence(const Runner& dense, const Runner& pruned, std::int64_t row) {
  const float* a = dense.logits.row(row);
  const float* b = pruned.logits.row(row);
  const auto s = static_cast<std::size_t>(row);
  const auto total = static_cast<float>(dense.log_totals[s]);
  double sum = 0.0;
  for (std::int64_t v = 0; v < dense.logits.cols(); ++v) {
    sum += double{std::exp(a[v] - total)} * (double{a[v]} - double{b[v]});
  }
  // The exponentials sum to 1 but for rounding.
  return std::max(0.0, sum - dense.log_totals[s] + pruned.log_totals[s]);
}

class CpuTextForwards final : public TextForwards {
 public:
  CpuTextForwards(std::span<const Model* const> models, const Backend& backend, const ForwardOptions& options)
      : backend_(backend), options_(options) {
    for (const Model* model : models) runners_.emplace_back(*model, backend, options.compute);
    options_.hidden_bytes /= std::ssize(models);
  }

  std::size_t num_models() const override { return runners_.size(); }

  std::int64_t prepare(std::int64_t) override {
    const std::int64_t row_bytes =
        runners_.front().model.config().row_size() * static_cast<std::int64_t>(sizeof(float));
    return std::max<std::int64_t>(1, options_.hidden_bytes / row_bytes);
  }

  void run(std::size_t model, const TokenWindows& windows, std::int64_t first, std::int64_t count,
           const std::function<void(std::int64_t)>& step) override {
    Runner& runner = runners_[model];
    runner.hidden = forward_blocks(runner.model, backend_, windows, first, count, options_.compute, step);
  }

  std::int64_t run(std::size_t model, std::span<const std::int32_t> ids, std::span<const Segment> segments,
                   const std::function<void()>& step) override {
    Runner& runner = runners_[model];
    runner.hidden = forward_segments(runner.model, backend_, ids, segments, options_.compute, step);
    return std::ssize(ids);
  }

  std::int64_t rows_a_score() const override { return kLogitRows; }

  void score(std::size_t model, std::span<const std::int64_t> rows, std::span<const std::int32_t> targets,
             std::span<double> log_probs, std::span<std::int32_t> best) override {
    expect(!rows.empty() && std::ssize(rows) <= kLogitRows, "score: a bounded number of rows");
    Runner& runner = runners_[model];
    const std::int64_t n = std::ssize(rows);
    Matrix hidden(n, runner.hidden.cols());
    for (std::int64_t i = 0; i < n; ++i) {
      std::copy_n(runner.hidden.row(rows[static_cast<std::size_t>(i)]), hidden.cols(), hidden.row(i));
    }
    const MatrixView logits = runner.logits.view().row_block(0, n);
    runner.head.logits(backend_, hidden.view(), logits);
    backend_.target_log_probs(logits, targets, log_probs, best);
    runner.log_totals.resize(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      runner.log_totals[i] = double{logits.at(static_cast<std::int64_t>(i), targets[i])} - log_probs[i];
    }
  }

  void divergences(std::size_t model, std::span<double> kl) override {
    const Runner& dense = runners_.front();
    const Runner& pruned = runners_[model];
    expect(kl.size() == dense.log_totals.size() && kl.size() == pruned.log_totals.size(),
           "divergences: the rows that were scored");
    parallel_for(std::ssize(kl), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        kl[static_cast<std::size_t>(r)] = kl_divergence(dense, pruned, r);
      }
    });
  }

  std::vector<float> logits(std::size_t model, std::int64_t index) override {
    const auto row = runners_[model].logits.view().row_span(index);
    return {row.begin(), row.end()};
  }

 private:
  const Backend& backend_;
  ForwardOptions options_;
  std::vector<Runner> runners_;
};

}  // namespace

std::unique_ptr<TextForwards> make_cpu_text_forwards(std::span<const Model* const> models,
                                                     const Backend& backend, const ForwardOptions& options) {
  expect(!models.empty(), "make_cpu_text_forwards: models");
  return std::make_unique<CpuTextForwards>(models, backend, options);
}

}  // namespace swiftprune
