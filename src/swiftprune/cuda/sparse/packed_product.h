// device/packed_product.h on a GPU.
#pragma once

#include "swiftprune/device/packed_product.h"

namespace swiftprune::cuda {

std::unique_ptr<PackedProduct> make_packed_product(const PackedTensor& weight, int index, DType grid_dtype);

}  // namespace swiftprune::cuda
