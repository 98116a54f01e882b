// What scores and refinements know of the calibration data: statistics of one linear's inputs x [N, I]. The
// spans belong to the caller; those that no part in use needs may be empty.
#pragma once

#include <cstdint>
#include <span>

#include "swiftprune/backend/backend.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

struct LayerStats {
  std::int64_t num_tokens = 0;              // N
  std::span<const double> energy{};         // [I] e_j = Σ_t x_tj²
  std::span<const double> ewma_energy{};    // [I] EWMA over the calibration windows of each window's energies
  std::span<const double> sum{};            // [I] Σ_t x_tj
  const Matrix* gram = nullptr;             // [I, I] Σ_t x_t x_tᵀ, both halves
  const Matrix* sample = nullptr;           // [n, I] the first of the x_t
  ComputeType compute = ComputeType::kF32;  // how the moments were multiplied, and refinements may
  // Where the dense model ran beside the pruned one, x being the pruned one's inputs; else null.
  const Matrix* cross = nullptr;  // [I, I] Σ_t x_dense,t x_tᵀ
  const Matrix* residual =
      nullptr;  // [O, I] Σ_t (r_dense,t - r_t) x_tᵀ of the residuals that the output joins
};

// Which of them a part reads.
struct StatNeeds {
  bool energy = false;
  bool ewma_energy = false;
  bool sum = false;
  bool gram = false;
  bool alignment = false;  // cross, and residual where there is one
  bool sample = false;

  // Whether calibration has to run; alignment and samples come with one of the others.
  bool any() const { return energy || ewma_energy || sum || gram; }

  bool operator==(const StatNeeds&) const = default;
  StatNeeds operator|(const StatNeeds& other) const {
    return {energy || other.energy, ewma_energy || other.ewma_energy, sum || other.sum,
            gram || other.gram,     alignment || other.alignment,     sample || other.sample};
  }
};

}  // namespace swiftprune
