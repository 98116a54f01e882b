// The parts of the tables of 64-bit Arm.
#pragma once

#include "swiftprune/sparse/kernels.h"

namespace swiftprune::sparse_kernels {

void set_neon_decode(Table& table);
void set_neon_grid(Table& table);
// Grids by the processor's products of four bytes.
void set_neon_dot_grid(Table& table);

}  // namespace swiftprune::sparse_kernels
