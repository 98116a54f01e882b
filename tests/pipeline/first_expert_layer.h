// The first layer with experts of a model, in doubles: what its experts make of the inputs that the text gives them.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "swiftprune/model/experts_config.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/root_mean_square.h"

namespace swiftprune::test {

inline std::size_t index_of(std::int64_t i) { return static_cast<std::size_t>(i); }

// What the layer's experts add up to, with these of them, in doubles.
inline std::vector<std::vector<double>> outputs(const Backend& backend, const Experts& experts,
                                                const std::vector<std::int64_t>& members, ConstMatrixView x) {
  const Router router = experts.router().with(members);
  const Routing routing = router.route(router.scores(backend, x).view());
  std::vector<std::vector<double>> y(index_of(x.rows), std::vector<double>(index_of(x.cols), 0.0));
  for (std::size_t j = 0; j < members.size(); ++j) {
    experts.use(backend, members[j], [&](const Expert& expert) {
      const Matrix f = expert.project(backend, expert.inner(backend, x).view());
      for (std::int64_t t = 0; t < x.rows; ++t) {
        for (std::size_t i = 0; i < index_of(routing.top_k); ++i) {
          if (index_of(routing.experts_of(t)[i]) != j) continue;
          for (std::int64_t c = 0; c < x.cols; ++c)
            y[index_of(t)][index_of(c)] += double{routing.gates_of(t)[i]} * double{f.at(t, c)};
        }
      }
    });
  }
  return y;
}

// The experts' inputs of the first layer that has them, and the tokens' weights.
class FirstLayer {
 public:
  FirstLayer(const Model& model, const Backend& backend, const TokenWindows& windows)
      : hidden_(model.embed_windows(windows, 0, windows.num_windows())) {
    const std::vector<RopeTable> ropes = model.rope_tables(windows.seqlen);
    BlockForwardOptions options;
    options.sequence_length = windows.seqlen;
    Matrix inputs;
    const InputObserver observer = [&](LinearInput input, ConstMatrixView seen) {
      if (input == LinearInput::kMlp) x = copy_of(seen);
    };
    options.observer = &observer;
    for (std::int64_t layer = 0; block == nullptr || block->experts() == nullptr; ++layer) {
      block = std::make_unique<DecoderBlock>(model.load_block(layer));
      block->pack(backend, ComputeType::kF32);
      block->forward(backend, ropes, hidden_.view(), options);
    }
    for (std::int64_t t = 0; t < hidden_.rows(); ++t) {
      const double size = root_mean_square(hidden_.view().row_span(t));
      weights.push_back(1.0 / (size * size));
    }
  }

  std::unique_ptr<DecoderBlock> block;
  Matrix x;
  std::vector<double> weights;

 private:
  Matrix hidden_;
};

inline double change(const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b,
                     const std::vector<double>& weights) {
  double sum = 0.0;
  for (std::size_t t = 0; t < a.size(); ++t) {
    for (std::size_t c = 0; c < a[t].size(); ++c) sum += weights[t] * std::pow(a[t][c] - b[t][c], 2);
  }
  return sum;
}

// The folder holds what the run computed: its first layer changes the dense layer's output by what was reported.
inline void expect_reported_change(const Model& dense, const Model& reduced, double reported,
                                   const Backend& backend, const TokenWindows& windows) {
  const FirstLayer first(dense, backend, windows), second(reduced, backend, windows);
  const auto members = [](const Experts& experts) {
    std::vector<std::int64_t> all(index_of(experts.count()));
    std::iota(all.begin(), all.end(), 0);
    return all;
  };
  const Experts& a = *first.block->experts();
  const Experts& b = *second.block->experts();
  const auto y = outputs(backend, a, members(a), first.x.view());
  const auto z = outputs(backend, b, members(b), first.x.view());
  const std::vector<std::vector<double>> nothing(y.size(), std::vector<double>(y.front().size(), 0.0));
  const double expected = change(z, y, first.weights) / change(y, nothing, first.weights);
  EXPECT_NEAR(reported, expected, 2e-3 * (1e-2 + expected));
}

}  // namespace swiftprune::test
