// Matrix products on the device through cuBLASLt, which is opened when it is first needed: a program without
// it, or without a GPU, still starts.
#pragma once

#include <map>
#include <memory>
#include <tuple>

#include "swiftprune/cuda/runtime/runtime.h"

namespace swiftprune::cuda {

// c [M, N] = alpha op(a) op(b) + beta c, op transposing where the flag is set; a and b of one dtype, sums
// float.
struct Product {
  DeviceView a{};
  DeviceView b{};
  DeviceView c{};
  bool a_transposed = false;
  bool b_transposed = false;
  float alpha = 1.0f;
  float beta = 0.0f;
  const void* bias = nullptr;  // [N] of c's dtype, added to every row
  bool tf32 = false;           // F32 operands may be rounded to TF32
};

class Products {
 public:
  // Throws Error{kDevice} when cuBLASLt is not found.
  Products(DeviceMemory& memory, cudaStream_t stream);
  ~Products();
  // The algorithm depends on the shapes and alignments alone, so equal calls give equal bits.
  void run(const Product& product);
  // x [N, I], weight [O, I] -> y [N, O] (+)= x Wᵀ + bias
  void linear(DeviceView x, DeviceView weight, const void* bias, DeviceView y, bool accumulate = false);

 private:
  struct Library;
  struct Plan;
  using Key = std::tuple<int, int, int, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                         std::int64_t, int, std::uint32_t>;
  const Plan& plan(const Product& product);

  Library& library_;
  cudaStream_t stream_;
  void* handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace swiftprune::cuda
