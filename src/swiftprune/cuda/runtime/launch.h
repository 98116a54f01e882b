// What the launchers of the project's own kernels have in common: raw device pointers, asynchronous on `stream`; sums in a
// fixed order, so that equal inputs give equal bits; Error{kDevice} when a launch fails. Element types are F32, F16 or
// BF16; matrices are row-major.
#pragma once

#include <cstdint>

namespace swiftprune::cuda {

// After each launch: throws Error{kDevice} naming the kernel when it could not start.
void check_launch(const char* kernel);

// Rows of floats, a stride of elements apart.
struct StridedRows {
  const float* data = nullptr;
  std::int64_t stride = 0;
};

}  // namespace swiftprune::cuda
