// Shared beginnings on every family (learned positions, sliding windows, parallel residuals): each sequence
// scores as it does alone in a plain forward.
#include "swiftprune/evaluation/continuations.h"

#include <cmath>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/forwards.h"

namespace swiftprune {
namespace {

using test::Expected;
using test::kModels;
using test::model_names;

double plain_log_prob(const Model& model, const Backend& backend, const ScoredSequence& sequence) {
  double sum = 0.0;
  const TokenWindows windows{std::ssize(sequence.ids), sequence.ids};
  for_each_logits(
      model, backend, windows, {}, [&](std::int64_t, std::int64_t first_row, ConstMatrixView logits) {
        for (std::int64_t r = 0; r < logits.rows; ++r) {
          const std::int64_t target = first_row + r + 1;
          if (target < sequence.num_context || target >= std::ssize(sequence.ids)) continue;
          double total = 0.0;
          for (const float x : logits.row_span(r)) total += std::exp(double{x});
          sum += double{logits.at(r, sequence.ids[static_cast<std::size_t>(target)])} - std::log(total);
        }
      });
  return sum;
}

class ContinuationsTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ContinuationsTest, ScoreAsAlone) {
  const auto model = Model::open(kModels / GetParam());
  const TokenWindows windows = Expected(GetParam()).windows();
  const auto first = windows.window(0), second = windows.window(1);
  std::vector<std::vector<ScoredSequence>> items(3);
  for (const std::int64_t common : {13, 17, 20}) {  // with the first 12 tokens of all the same
    ScoredSequence s{{first.begin(), first.begin() + common}, 11};
    s.ids.insert(s.ids.end(), second.begin() + common - 13, second.end() - 9);
    items[0].push_back(s);
  }
  items[1] = {{{second.begin(), second.end()}, 1}};
  items[2] = {{{first.begin(), first.begin() + 2}, 1}, {{second.begin(), second.begin() + 3}, 2}};
  for (const auto& backend : {make_cpu_backend(), make_reference_backend()}) {
    const ContinuationScores scores =
        score_continuations(*model, *test::forwards_of(*model, *backend), items, {});
    EXPECT_LT(scores.num_forwarded, scores.num_unshared);
    for (std::size_t i = 0; i < items.size(); ++i) {
      for (std::size_t c = 0; c < items[i].size(); ++c) {
        EXPECT_NEAR(scores.items[i][c].log_prob, plain_log_prob(*model, *backend, items[i][c]), 1e-3)
            << backend->name() << " item " << i << " sequence " << c;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ContinuationsTest, ::testing::ValuesIn(model_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace swiftprune
