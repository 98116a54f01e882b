// A linear layer over a packed weight, whatever its kind: y = x Wᵀ + bias.
#pragma once

#include <cstdint>
#include <span>

#include "swiftprune/backend/backend.h"
#include "swiftprune/sparse/packed_tensor.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

class Linear {
 public:
  Linear(PackedTensor weight);  // NOLINT: a packed tensor is a linear

  const PackedTensor& weight() const { return weight_; }
  std::int64_t out_features() const { return weight_.rows(); }
  std::int64_t in_features() const { return weight_.cols(); }
  std::int64_t num_bytes() const {
    return std::ssize(weight_.bytes());
  }  // read by one forward of a few tokens

  // x [N, I], bias [O] or empty -> y [N, O]. Sums are float32; the bits do not depend on the number of
  // threads, and for dense16 and bitmap16 not on the kind. `compute` bf16 lets products of many tokens round
  // x to bf16 where the processor multiplies bf16; a few tokens always meet x in float32. int8 kinds round x
  // of a few tokens (up to 16 by instruction set) to 16 bits a token (scale max |x| / 32767) and sum exactly; so do grids (max |x| /
  // 32639), exactly within a group of inputs, where the processor has kernels for them. `compute` bf16 lets
  // products of many tokens round a grid's weights to bf16, too.
  void forward(ConstMatrixView x, std::span<const float> bias, MatrixView y,
               ComputeType compute = ComputeType::kF32) const;

 private:
  PackedTensor weight_;
};

// The specification of forward: plain loops over the unpacked weight with double sums, x not rounded.
void reference_linear(const PackedTensor& weight, ConstMatrixView x, std::span<const float> bias,
                      MatrixView y);

}  // namespace swiftprune
