// The parts of the AVX-512 table; files because decode, tiles and grids are each a screenful.
#pragma once

#include "swiftprune/sparse/kernels.h"

namespace swiftprune::sparse_kernels {

void set_avx512_decode(Table& table);
void set_avx512_tiles(Table& table);
void set_avx512_grid(Table& table);
void set_avx512_bf16_gemm(Table& table);

}  // namespace swiftprune::sparse_kernels
