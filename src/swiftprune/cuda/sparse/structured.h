// Products of many tokens with 2:4 weights through cuSPARSELt, which is opened when it is first needed and is
// optional: at build time its header, at run time its library (SWIFTPRUNE_CUSPARSELT names the file, else the
// system's is looked for).
#pragma once

#include <map>
#include <memory>

#include "swiftprune/cuda/runtime/runtime.h"

namespace swiftprune::cuda {

class StructuredProducts {
 public:
  // Empty when it can be used, else why not.
  static std::string why_not();
  StructuredProducts(DeviceMemory& memory, cudaStream_t stream);  // throws Error{kDevice} with why_not()
  ~StructuredProducts();

  // The library's own form of a weight.
  class Weight {
   public:
    std::uint64_t bytes() const { return compressed_.bytes(); }

   private:
    friend class StructuredProducts;
    DeviceBuffer compressed_;
    std::int64_t rows_ = 0, cols_ = 0;
  };
  // dense [O, I], contiguous, BF16 (in F16 the search of version 0.8 runs illegal instructions), at most two
  // of each four consecutive values of a row not zero; O and I multiples of 16.
  Weight compress(DeviceView dense);

  // As the library numbers them; one found for some number of tokens serves others.
  struct Algorithm {
    int id = 0;
    int split_k = 1;
    int split_k_mode = 0;
    auto operator<=>(const Algorithm&) const = default;
  };
  // Tries the library's algorithms on these operands and returns the fastest. y is overwritten.
  Algorithm search(const Weight& weight, DeviceView x, DeviceView y);
  // x [N, I] -> y [N, O] = x Wᵀ; BF16, contiguous, N a multiple of 8. False, with nothing done, when the
  // algorithm does not take this shape.
  [[nodiscard]] bool linear(const Weight& weight, DeviceView x, DeviceView y, const Algorithm& algorithm);

 private:
  struct Library;
  struct Plan;
  struct Key {
    std::int64_t rows, cols, tokens;
    Algorithm algorithm;
    auto operator<=>(const Key&) const = default;
  };
  std::unique_ptr<Plan> describe(const Weight& weight, std::int64_t tokens) const;
  Plan* plan(const Weight& weight, std::int64_t tokens, const Algorithm& algorithm);

  DeviceMemory& memory_;
  cudaStream_t stream_;
  std::unique_ptr<Library> library_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace swiftprune::cuda
