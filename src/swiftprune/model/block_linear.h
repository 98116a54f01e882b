// One linear of a decoder block in memory: as float, or compact (packed, or dense in 16 bits), and the low-rank part
// beside it, where the model has an adapter.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/tensor/dtype.h"
#include "swiftprune/tensor/low_rank.h"

namespace swiftprune {

struct BlockLinear {
  LinearTensors tensors;
  DType dtype = DType::kF32;  // of the checkpoint's tensor
  Matrix weight;              // [O, I]; empty when `compact` runs in its place
  std::vector<float> bias;    // [O] or empty
  std::unique_ptr<PackedWeight> packed;
  std::optional<Linear> compact;  // of a packed model, or dense 16 bit for generation
  std::optional<LowRank> low_rank;
  std::unique_ptr<PackedWeight> packed_left, packed_right;  // of it
};

// kFloat: weights that can be read and changed. kCompact: 16-bit weights stay 16 bit, which is half the
// memory and, with few tokens, more than twice the speed. Packed models are compact either way.
enum class WeightUse { kFloat, kCompact };

// Before run_linear(), and after a change: what is multiplied with, but for what is compact.
void pack_linear(const Backend& backend, ComputeType compute, BlockLinear& linear);
// x [N, I] -> y [N, O] += L x of the low-rank part, where there is one.
void add_low_rank(const BlockLinear& linear, const Backend& backend, ConstMatrixView x, MatrixView y);
// x [N, I] -> [N, O]
Matrix run_linear(const BlockLinear& linear, const Backend& backend, ConstMatrixView x, ComputeType compute);

}  // namespace swiftprune
