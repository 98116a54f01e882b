// A small linear with correlated inputs, as calibration would give it.
#pragma once

#include <cmath>
#include <random>

#include "support/random_matrix.h"
#include "swiftprune/backend/backend.h"
#include "swiftprune/refinement/refiner.h"

namespace swiftprune::testing {

struct ProblemOptions {
  std::int64_t outputs = 12;
  std::int64_t inputs = 40;
  std::int64_t tokens = 200;
  bool correlated = true;
  std::int64_t dead_input = -1;
  unsigned seed = 1;
};

struct Problem {
  Matrix weight;  // [O, I]
  Matrix gram;    // [I, I]
  LayerStats stats;
};

inline Problem make_problem(const ProblemOptions& options) {
  Problem problem;
  problem.weight = random_matrix(options.outputs, options.inputs, options.seed, 0.05f);
  Matrix x = random_matrix(options.tokens, options.inputs, options.seed + 1);
  if (options.correlated) {  // few directions carry most, some inputs are far larger than others
    const Matrix common = random_matrix(options.tokens, 4, options.seed + 2, 2.0f);
    const Matrix mixing = random_matrix(4, options.inputs, options.seed + 3);
    std::mt19937 generator(options.seed + 4);
    std::normal_distribution<float> normal;
    for (std::int64_t j = 0; j < options.inputs; ++j) {
      const float scale = std::exp(normal(generator));
      for (std::int64_t t = 0; t < options.tokens; ++t) {
        for (std::int64_t k = 0; k < 4; ++k) x.at(t, j) += common.at(t, k) * mixing.at(k, j);
        x.at(t, j) *= scale;
      }
    }
  }
  if (options.dead_input >= 0) {
    for (std::int64_t t = 0; t < options.tokens; ++t) x.at(t, options.dead_input) = 0.0f;
  }
  problem.gram = Matrix::zeros(options.inputs, options.inputs);
  make_reference_backend()->add_gram(x.view(), problem.gram.view());
  Backend::symmetrize(problem.gram.view());
  problem.stats.num_tokens = options.tokens;
  return problem;
}

// The statistics point into the problem: ask when it lies where it stays.
inline LayerStats stats_of(const Problem& problem) {
  LayerStats stats = problem.stats;
  stats.gram = &problem.gram;
  return stats;
}

inline Refinement refine(const Refiner& refiner, const Problem& problem, const PruneTarget& target,
                         const Mask* mask, const Backend& backend) {
  const auto prepared = refiner.prepare(stats_of(problem), backend, "layer");
  RefineTask task;
  task.weight = problem.weight.view();
  task.mask = mask;
  task.target = target;
  return refiner.refine(task, *prepared, backend);
}

}  // namespace swiftprune::testing
