// Perplexity under each convention against losses computed from the logits of whole sequences (transformers'
// fixtures), and bits per byte by hand.
#include "swiftprune/evaluation/perplexity.h"

#include <cmath>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/forwards.h"
#include "support/random_windows.h"
#include "support/thread_ranks.h"

namespace swiftprune {
namespace {

using test::Expected;
using test::kModels;

// Loss of token `target` of sequence `s` from transformers' logits [S·T, vocab].
double loss_of(const Matrix& logits, const TokenWindows& windows, std::int64_t s, std::int64_t target) {
  const std::int64_t row = s * windows.seqlen + target - 1;
  double sum = 0.0;
  for (std::int64_t v = 0; v < logits.cols(); ++v) sum += std::exp(double{logits.at(row, v)});
  return std::log(sum) - double{logits.at(row, windows.window(s)[static_cast<std::size_t>(target)])};
}

TEST(PerplexityTest, ScoresTheTokensOfTheConvention) {
  const Expected expected("llama3");
  const TokenWindows windows = expected.windows();
  const Matrix logits = expected.matrix("logits");
  const auto model = Model::open(kModels / "llama3");
  const auto backend = make_cpu_backend();
  for (const std::int64_t first : {std::int64_t{1}, windows.seqlen / 2 + 1, windows.seqlen - 1}) {
    ScoredWindows scored{windows,
                         std::vector<std::int64_t>(static_cast<std::size_t>(windows.num_windows()), first)};
    scored.first_target[0] = 1;
    double sum = 0.0;
    std::vector<double> means;
    for (std::int64_t s = 0; s < windows.num_windows(); ++s) {
      double window = 0.0;
      const std::int64_t from = scored.first_target[static_cast<std::size_t>(s)];
      for (std::int64_t t = from; t < windows.seqlen; ++t) window += loss_of(logits, windows, s, t);
      sum += window;
      means.push_back(window / static_cast<double>(windows.seqlen - from));
    }
    const PerplexityResult result = test::perplexity_of(*model, *backend, std::span(&scored, 1));
    EXPECT_EQ(result.num_tokens, scored.num_scored());
    EXPECT_NEAR(result.mean_nll, sum / static_cast<double>(result.num_tokens), 1e-5);
    EXPECT_NEAR(result.perplexity, std::exp(result.mean_nll), 1e-9);
    ASSERT_EQ(result.window_nll.size(), means.size());
    for (std::size_t w = 0; w < means.size(); ++w) EXPECT_NEAR(result.window_nll[w], means[w], 1e-5);
  }
}

// A part of another length joins in: strided windows end in a shorter one.
TEST(PerplexityTest, PartsAreJoinedByTokens) {
  const Expected expected("llama3");
  const TokenWindows windows = expected.windows();
  const auto model = Model::open(kModels / "llama3");
  const auto backend = make_cpu_backend();
  const auto whole = windows.window(0), other = windows.window(1);
  std::vector<ScoredWindows> parts = {{TokenWindows{windows.seqlen, {whole.begin(), whole.end()}}, {1}},
                                      {TokenWindows{7, {other.begin(), other.begin() + 7}}, {3}}};
  const PerplexityResult a = test::perplexity_of(*model, *backend, std::span(parts).first(1));
  const PerplexityResult b = test::perplexity_of(*model, *backend, std::span(parts).last(1));
  const PerplexityResult both = test::perplexity_of(*model, *backend, parts);
  EXPECT_EQ(b.num_tokens, 4);
  EXPECT_NEAR(both.mean_nll * static_cast<double>(both.num_tokens),
              a.mean_nll * static_cast<double>(a.num_tokens) + b.mean_nll * 4.0, 1e-9);
}

TEST(PerplexityTest, BitsPerByte) {
  PerplexityResult result;
  result.mean_nll = std::log(8.0);  // 3 bits a token
  EXPECT_NEAR(result.bits_per_byte(4.0), 0.75, 1e-12);
}

// Groups that the windows do not fill, passes that the ranks do not share out evenly, ranks without any.
TEST(PerplexityTest, RanksFindTheBitsOfOneProcess) {
  const auto model = Model::open(kModels / "llama3");
  const auto backend = make_cpu_backend();
  std::vector<ScoredWindows> parts;
  for (const auto& [windows, length] : {std::pair<std::int64_t, std::int64_t>{230, 24}, {3, 17}}) {
    parts.push_back({test::random_windows(*model, windows, length),
                     std::vector<std::int64_t>(static_cast<std::size_t>(windows), 1)});
  }
  ForwardOptions options;
  options.hidden_bytes = 100 * 24 * model->config().hidden_size * static_cast<std::int64_t>(sizeof(float));
  const Model* models[] = {model.get()};
  const auto forwards = make_cpu_text_forwards(models, *backend, options);
  const PerplexityResult whole = perplexity(*model, *forwards, parts, {});
  for (const int size : {2, 3, 8}) {
    test::ThreadRanks(size).run([&](Communicator& ranks) {
      const auto own = make_cpu_text_forwards(models, *backend, options);
      const PerplexityResult found = perplexity(*model, *own, parts, {}, ranks);
      EXPECT_EQ(found.mean_nll, whole.mean_nll);
      EXPECT_EQ(found.window_nll, whole.window_nll);
      EXPECT_EQ(found.num_forwarded, whole.num_forwarded);
    });
  }
}

}  // namespace
}  // namespace swiftprune
