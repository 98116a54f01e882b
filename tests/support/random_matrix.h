// Seeded random matrices for tests.
#pragma once

#include <random>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune::testing {

inline Matrix random_matrix(std::int64_t rows, std::int64_t cols, unsigned seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  Matrix m(rows, cols);
  for (float& value : m.values()) value = normal(generator);
  return m;
}

// A matrix whose rows are wider than the view: tests of strides.
struct StridedMatrix {
  Matrix storage;
  MatrixView view;
};
inline StridedMatrix random_strided(std::int64_t rows, std::int64_t cols, unsigned seed, float scale = 1.0f) {
  StridedMatrix m{random_matrix(rows, cols + 5, seed, scale), {}};
  m.view = m.storage.view().col_block(3, cols);
  return m;
}

}  // namespace swiftprune::testing
