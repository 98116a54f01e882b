// The parts of the AVX2 table.
#pragma once

#include "swiftprune/sparse/kernels.h"

namespace swiftprune::sparse_kernels {

void set_avx2_decode(Table& table);
void set_avx2_tiles(Table& table);
void set_avx2_grid(Table& table);

}  // namespace swiftprune::sparse_kernels
