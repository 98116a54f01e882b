#include "swiftprune/device/packed_product.h"

#include <string>

#include "swiftprune/core/error.h"
#include "swiftprune/device/cuda_library.h"

namespace swiftprune {

std::unique_ptr<PackedProduct> make_packed_product(const PackedTensor& weight, int index, DType grid_dtype) {
  std::string why_not;
  void* found = cuda_symbol(kPackedProductSymbol, why_not);
  if (found == nullptr) fail(ErrorKind::kDevice, "packed weights on a GPU: {}", why_not);
  return std::unique_ptr<PackedProduct>(
      reinterpret_cast<MakePackedProductFn>(found)(weight, index, grid_dtype));
}

}  // namespace swiftprune
