// Products of many tokens with 2:4 weights through cuSPARSELt, which is opened when it is first needed and is
// optional: at build time its header, at run time its library (SWIFTPRUNE_CUSPARSELT names the file, else the
// system's is looked for).
#pragma once

#include <map>
#include <memory>

#include "swiftprune/cuda/runtime.h"

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

  // x [N, I] -> y [N, O] = x Wᵀ; BF16, contiguous, N a multiple of 8. The first call of a shape
  // tries the library's algorithms on these operands and keeps the fastest: the outputs of that call are
  // those of the kept one.
  void linear(const Weight& weight, DeviceView x, DeviceView y);

 private:
  struct Library;
  struct Plan;
  struct Key {
    std::int64_t rows, cols, tokens;
    auto operator<=>(const Key&) const = default;
  };
  Plan& plan(const Weight& weight, DeviceView x, DeviceView y);

  DeviceMemory& memory_;
  cudaStream_t stream_;
  std::unique_ptr<Library> library_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace swiftprune::cuda
