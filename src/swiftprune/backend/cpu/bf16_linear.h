// y = x Wᵀ with operands rounded to bf16 and float sums, through oneDNN's matmul on a weight in oneDNN's own
// blocked layout. Twice the rate of float where the processor has bf16 products (AVX-512 bf16, AMX).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune::cpu {

class Bf16Linear {
 public:
  static bool available();  // does this processor have bf16 products?
  explicit Bf16Linear(ConstMatrixView weight);
  ~Bf16Linear();
  // x [N, I], bias [O] or empty -> y [N, O]
  void forward(ConstMatrixView x, std::span<const float> bias, MatrixView y) const;
  // So many rows of x are a task for each panel of outputs; they may come alone where there are two panels or more,
  // for a single task runs on oneDNN's threads.
  static constexpr std::int64_t kRowChunk = 256;
  static constexpr std::int64_t kPanelRows = 1024;  // outputs of a panel, each packed by itself

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftprune::cpu
