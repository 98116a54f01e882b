#if defined(__aarch64__)
#include "swiftprune/sparse/grid_neon.inc"

namespace swiftprune::sparse_kernels {

void set_neon_dot_grid(Table& table) { set_grid(table); }

}  // namespace swiftprune::sparse_kernels
#else
#include "swiftprune/sparse/kernels_neon.h"

namespace swiftprune::sparse_kernels {
void set_neon_dot_grid(Table&) {}
}  // namespace swiftprune::sparse_kernels
#endif
