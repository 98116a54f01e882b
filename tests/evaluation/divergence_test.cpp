// Divergences against loops over whole logits in double, which a streaming comparison never holds.
#include "swiftprune/evaluation/divergence.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "evaluation/pruned_copy.h"
#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"
#include "swiftprune/evaluation/block_errors.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::kTinyModel;
using test::TempDir;
using test::write_changed;
using test::zeros;

ScoredWindows random_windows(std::int64_t vocab, std::int64_t count, std::int64_t seqlen,
                             std::int64_t first) {
  std::mt19937 random(11);
  ScoredWindows scored{{seqlen, {}}, std::vector<std::int64_t>(static_cast<std::size_t>(count), first)};
  for (std::int64_t i = 0; i < count * seqlen; ++i) {
    scored.windows.ids.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab)));
  }
  return scored;
}

// log softmax of all logits, [window·seqlen, vocab].
std::vector<std::vector<double>> log_probs(const Model& model, const Backend& backend,
                                           const TokenWindows& windows) {
  std::vector<std::vector<double>> rows;
  for_each_logits(model, backend, windows, {}, [&](std::int64_t, std::int64_t, ConstMatrixView logits) {
    for (std::int64_t r = 0; r < logits.rows; ++r) {
      double sum = 0.0;
      for (const float x : logits.row_span(r)) sum += std::exp(double{x});
      auto& row = rows.emplace_back();
      for (const float x : logits.row_span(r)) row.push_back(double{x} - std::log(sum));
    }
  });
  return rows;
}

class DivergenceTest : public ::testing::Test {
 protected:
  DivergenceTest() {
    write_changed(folder_.path() / "pruned", zeros(1, 2));
    dense_ = Model::open(kTinyModel);
    pruned_ = Model::open(folder_.path() / "pruned");
  }
  std::vector<ComparedModel> compare(std::vector<const Model*> models, std::vector<ScoredWindows> parts,
                                     CompareOptions options = {}, ForwardOptions forward = {}) {
    const auto forwards = make_cpu_text_forwards(models, *backend_, forward);
    return compare_models(models, *forwards, parts, options);
  }
  TempDir folder_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::unique_ptr<Model> dense_, pruned_;
};

TEST_F(DivergenceTest, MatchesWholeLogits) {
  const ScoredWindows scored = random_windows(dense_->config().vocab_size, 3, 30, 4);
  const auto p = log_probs(*dense_, *backend_, scored.windows),
             q = log_probs(*pruned_, *backend_, scored.windows);
  std::vector<double> kl;
  double nll_p = 0.0, nll_q = 0.0, same = 0.0;
  for (std::int64_t w = 0; w < 3; ++w) {
    for (std::int64_t t = 4; t < 30; ++t) {
      const auto row = static_cast<std::size_t>(w * 30 + t - 1);
      double sum = 0.0;
      for (std::size_t v = 0; v < p[row].size(); ++v) sum += std::exp(p[row][v]) * (p[row][v] - q[row][v]);
      kl.push_back(sum);
      const auto target = static_cast<std::size_t>(scored.windows.window(w)[static_cast<std::size_t>(t)]);
      nll_p -= p[row][target];
      nll_q -= q[row][target];
      same += std::max_element(p[row].begin(), p[row].end()) - p[row].begin() ==
                      std::max_element(q[row].begin(), q[row].end()) - q[row].begin()
                  ? 1.0
                  : 0.0;
    }
  }
  std::sort(kl.begin(), kl.end());
  const auto n = static_cast<double>(kl.size());
  const std::vector<ComparedModel> found = compare({dense_.get(), pruned_.get()}, {scored});
  ASSERT_TRUE(found[1].divergence);
  const Divergence& d = *found[1].divergence;
  EXPECT_NEAR(found[0].perplexity.mean_nll, nll_p / n, 1e-5);
  EXPECT_NEAR(found[1].perplexity.mean_nll, nll_q / n, 1e-5);
  EXPECT_NEAR(d.mean_kl, std::accumulate(kl.begin(), kl.end(), 0.0) / n, 1e-5);
  EXPECT_NEAR(d.p99_kl, kl[static_cast<std::size_t>(std::ceil(0.99 * n)) - 1], 1e-4);
  EXPECT_NEAR(d.max_kl, kl.back(), 1e-4);
  EXPECT_DOUBLE_EQ(d.top1, same / n);
  EXPECT_NEAR(d.perplexity_ratio, std::exp((nll_q - nll_p) / n), 1e-4);
  ASSERT_TRUE(d.ratio_interval);
  EXPECT_LT(d.ratio_interval->low, d.perplexity_ratio);
  EXPECT_GT(d.ratio_interval->high, d.perplexity_ratio);
}

TEST_F(DivergenceTest, AModelAgainstItselfIsZero) {
  const auto found =
      compare({dense_.get(), dense_.get()}, {random_windows(dense_->config().vocab_size, 2, 40, 1)});
  const Divergence& d = *found[1].divergence;
  EXPECT_EQ(d.mean_kl, 0.0);
  EXPECT_EQ(d.max_kl, 0.0);
  EXPECT_EQ(d.top1, 1.0);
  EXPECT_EQ(d.perplexity_ratio, 1.0);
  EXPECT_EQ(d.ratio_interval->low, 1.0);
  EXPECT_FALSE(found[0].divergence);
}

TEST_F(DivergenceTest, WorstTokensAreTheLargestOfTheirStretches) {
  const ScoredWindows scored = random_windows(dense_->config().vocab_size, 6, 150, 1);
  const auto found = compare({dense_.get(), pruned_.get()}, {scored}, {.num_worst = 4, .progress = {}});
  const Divergence& d = *found[1].divergence;
  ASSERT_EQ(d.worst.size(), 4u);
  EXPECT_NEAR(d.worst[0].kl, d.max_kl, 1e-6);
  for (std::size_t i = 1; i < d.worst.size(); ++i) {
    EXPECT_GE(d.worst[i - 1].kl, d.worst[i].kl);
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(d.worst[i].window == d.worst[j].window &&
                   d.worst[i].position / kWorstStretch == d.worst[j].position / kWorstStretch);
    }
  }
  const DivergentToken& token = d.worst[0];
  const auto p = log_probs(*dense_, *backend_, scored.windows);
  const auto& row = p[static_cast<std::size_t>(token.window * 150 + token.position - 1)];
  ASSERT_EQ(token.dense.size(), 3u);
  EXPECT_NEAR(token.dense[0].probability, std::exp(*std::max_element(row.begin(), row.end())), 1e-5);
  const std::int32_t target = scored.windows.window(token.window)[static_cast<std::size_t>(token.position)];
  EXPECT_NEAR(token.dense_probability, std::exp(row[static_cast<std::size_t>(target)]), 1e-5);
}

TEST_F(DivergenceTest, SmallMemoryAndManyModelsGiveTheSame) {
  const std::vector<ScoredWindows> parts = {random_windows(dense_->config().vocab_size, 3, 20, 1),
                                            random_windows(dense_->config().vocab_size, 1, 9, 5)};
  ForwardOptions small;
  small.hidden_bytes = 1;  // a window at a time
  const auto a = compare({dense_.get(), pruned_.get(), dense_.get()}, parts);
  const auto b = compare({dense_.get(), pruned_.get()}, parts, {}, small);
  EXPECT_NEAR(a[1].divergence->mean_kl, b[1].divergence->mean_kl, 1e-6);
  EXPECT_EQ(a[1].perplexity.num_tokens, 3 * 19 + 4);
  EXPECT_EQ(a[2].divergence->mean_kl, 0.0);
}

// Several passes of windows, so that each rank has some; two texts.
TEST_F(DivergenceTest, RanksFindTheNumbersOfOneProcess) {
  const std::vector<ScoredWindows> parts = {random_windows(dense_->config().vocab_size, 120, 40, 1),
                                            random_windows(dense_->config().vocab_size, 5, 9, 5)};
  const std::vector<const Model*> models = {dense_.get(), pruned_.get()};
  const auto whole = compare(models, parts);
  for (const int size : {2, 4}) {
    test::ThreadRanks(size).run([&](Communicator& ranks) {
      const auto forwards = make_cpu_text_forwards(models, *backend_, {});
      const auto found = compare_models(models, *forwards, parts, {}, ranks);
      for (std::size_t m = 0; m < models.size(); ++m) {
        EXPECT_EQ(found[m].perplexity.mean_nll, whole[m].perplexity.mean_nll);
        EXPECT_EQ(found[m].perplexity.window_nll, whole[m].perplexity.window_nll);
      }
      const Divergence &a = *whole[1].divergence, &b = *found[1].divergence;
      EXPECT_EQ(b.mean_kl, a.mean_kl);
      EXPECT_EQ(b.p99_kl, a.p99_kl);
      EXPECT_EQ(b.max_kl, a.max_kl);
      EXPECT_EQ(b.top1, a.top1);
      ASSERT_EQ(b.worst.size(), a.worst.size());
      for (std::size_t i = 0; i < a.worst.size(); ++i) {
        EXPECT_EQ(b.worst[i].window, a.worst[i].window);
        EXPECT_EQ(b.worst[i].position, a.worst[i].position);
        EXPECT_EQ(b.worst[i].dense_probability, a.worst[i].dense_probability);
        EXPECT_EQ(b.worst[i].pruned[2].probability, a.worst[i].pruned[2].probability);
      }
    });
  }
}

TEST_F(DivergenceTest, VocabulariesMustAgree) {
  const auto other = Model::open(SWIFTPRUNE_TEST_DATA "/model/llama3");
  expect_error(ErrorKind::kBadInput, [&] { require_same_vocabulary(*dense_, *other); },
               {"llama3", "found a vocabulary of 64", "expected"});
}

TEST(RatioIntervalTest, StudentsT) {
  EXPECT_FALSE(ratio_interval(std::vector{1.0}, std::vector{2.0}));
  // Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1/sqrt(3), t(2) = 4.303.
  const auto interval = ratio_interval(std::vector{1.0, 1.0, 1.0}, std::vector{1.1, 1.2, 1.3});
  const double half = 4.303 * 0.1 / std::sqrt(3.0);
  EXPECT_NEAR(interval->low, std::exp(0.2 - half), 1e-9);
  EXPECT_NEAR(interval->high, std::exp(0.2 + half), 1e-9);
  // 31 windows: t(30) = 2.042.
  std::vector<double> dense(31, 0.0), pruned(31, 0.0);
  for (std::size_t i = 0; i < 31; ++i) pruned[i] = i % 2 == 0 ? 1.0 : -1.0;
  const double mean = 1.0 / 31.0, deviation = std::sqrt((31.0 - 1.0 / 31.0) / 30.0);
  EXPECT_NEAR(std::log(ratio_interval(dense, pruned)->high), mean + 2.042 * deviation / std::sqrt(31.0),
              2e-4);
}

TEST(QuantileTest, NearestRank) {
  EXPECT_EQ(quantile({3.0f, 1.0f, 2.0f}, 0.99), 3.0);
  EXPECT_EQ(quantile({3.0f, 1.0f, 2.0f}, 0.5), 2.0);
  EXPECT_EQ(quantile({5.0f}, 0.01), 5.0);
}

class BlockErrorsTest : public DivergenceTest {};

TEST_F(BlockErrorsTest, ComeFromTheBlockThatChanged) {
  write_changed(folder_.path() / "second", zeros(1, 4, "layers.1."));
  const auto second = Model::open(folder_.path() / "second");
  const TokenWindows windows = random_windows(dense_->config().vocab_size, 2, 16, 1).windows;
  const auto errors =
      block_errors(*dense_, *second, test::pairs_of(*dense_, *second, *backend_), windows, 32, {});
  ASSERT_TRUE(errors);
  ASSERT_EQ(errors->size(), 2u);
  EXPECT_EQ((*errors)[0].own, 0.0);
  EXPECT_EQ((*errors)[0].total, 0.0);
  EXPECT_GT((*errors)[1].own, 0.01);
  EXPECT_GT((*errors)[1].total, 0.0);
  for (const LinearError& linear : (*errors)[0].linears) EXPECT_EQ(linear.error, 0.0);
  ASSERT_EQ((*errors)[1].linears.size(), 7u);
  for (const LinearError& linear : (*errors)[1].linears) EXPECT_GT(linear.error, 0.01) << linear.name;
}

// Scaling the weights by 1 - e scales the outputs: the relative squared error is e².
TEST_F(BlockErrorsTest, AreRelative) {
  write_changed(folder_.path() / "scaled", [](const std::string& name, std::vector<float>& values) {
    if (name.find("down_proj") == std::string::npos) return;
    for (float& value : values) value *= 0.5f;
  });
  const auto scaled = Model::open(folder_.path() / "scaled");
  const TokenWindows windows = random_windows(dense_->config().vocab_size, 1, 16, 1).windows;
  const auto errors =
      block_errors(*dense_, *scaled, test::pairs_of(*dense_, *scaled, *backend_), windows, 16, {});
  for (const LinearError& linear : (*errors)[0].linears) {
    EXPECT_NEAR(linear.error, linear.name.ends_with("down_proj") ? 0.25 : 0.0, 1e-6) << linear.name;
  }
}

TEST_F(BlockErrorsTest, NeedTheSameBlocks) {
  const auto other = Model::open(SWIFTPRUNE_TEST_DATA "/model/llama3_v5");  // three blocks
  EXPECT_FALSE(block_errors(*dense_, *other, test::pairs_of(*dense_, *other, *backend_),
                            random_windows(60, 1, 8, 1).windows, 8, {}));
}

}  // namespace
}  // namespace swiftprune
