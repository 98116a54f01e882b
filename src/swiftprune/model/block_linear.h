// One linear of a decoder block in memory: as float, or compact (packed, or dense in 16 bits).
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

struct BlockLinear {
  LinearTensors tensors;
  DType dtype = DType::kF32;  // of the checkpoint's tensor
  Matrix weight;              // [O, I]; empty when `compact` runs in its place
  std::vector<float> bias;    // [O] or empty
  std::unique_ptr<PackedWeight> packed;
  std::optional<Linear> compact;  // of a packed model, or dense 16 bit for generation
};

// kFloat: weights that can be read and changed. kCompact: 16-bit weights stay 16 bit, which is half the
// memory and, with few tokens, more than twice the speed. Packed models are compact either way.
enum class WeightUse { kFloat, kCompact };

// x [N, I] -> [N, O]. A linear that is not compact has been packed.
Matrix run_linear(const BlockLinear& linear, const Backend& backend, ConstMatrixView x, ComputeType compute);

}  // namespace swiftprune
