// Rounding onto a GGUF type's grid that minds what a linear makes of its inputs: each weight's error is made
// up for in the columns behind it (GPTQ, arXiv 2210.17323, over the factor of SparseGPT), where scales are
// searched for a block when compensation has reached it; then codes are chosen again one by one (QuantEase,
// arXiv 2309.01885), and scales too, while the error of the outputs falls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/export/gguf_grid.h"
#include "swiftprune/refinement/inverse_factor.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// What the linears that read one input share. The statistics outlive it.
class CompensationBasis {
 public:
  // stats: with the Gram matrix, and the moments against the dense stream where there are any.
  CompensationBasis(const LayerStats& stats, const Backend& backend, std::string_view tensor);

  // weight [O, I]: the dense linear's; becomes the values that `blocks` hold: O rows of whole blocks of
  // `type`, which has a grid. keep_zeros: zeros stay zeros.
  void quantize(const GgmlTypeTraits& type, bool keep_zeros, MatrixView weight,
                std::span<std::byte> blocks) const;

 private:
  struct Rows;
  class RowDescent;
  Matrix target(ConstMatrixView weight) const;
  void compensate(Rows& rows) const;
  void choose_again(Rows& rows) const;

  const Backend& backend_;
  const Matrix* residual_;
  InverseFactor inverse_;
  Matrix gram_;   // [I, I] damped as inverse_ is
  Matrix shift_;  // [I, I] what alignment adds to W·gram_: α(C - G); empty without a dense stream
  std::vector<float> energies_;  // [I] diagonal of the damped Gram matrix, mean 1
};

}  // namespace swiftprune
