// The inner loops of the refinements over one row, one table for each instruction set; row_loops.inc holds
// them once and is compiled with each set's flags. Raw pointers only across this border.
#pragma once

#include <cstdint>

namespace swiftprune {

struct RowLoops {
  float (*dot)(const float* x, const float* y, std::int64_t n);
  void (*add_scaled)(float a, const float* x, float* y, std::int64_t n);  // y += a·x
  void (*multiply)(const float* x, float* y, std::int64_t n);             // y *= x

  // admm: t holds Z (y where kept, else 0). t = Z - U = 2Z - y; y = c + U = c + (y - Z)
  void (*admm_split)(const float* c, float* y, float* t, std::int64_t n);

  // pcg: q += damping·p; returns p·q
  float (*pcg_curvature)(float damping, const float* p, float* q, std::int64_t n);
  // b += alpha·p; r -= alpha·q; returns Σ precondition·r²
  float (*pcg_descend)(float alpha, const float* p, const float* q, const float* precondition, float* b,
                       float* r, std::int64_t n);
  // p = precondition·r + beta·p
  void (*pcg_turn)(float beta, const float* precondition, const float* r, float* p, std::int64_t n);

  // swaps: what E rises by when weight j changes sides: sign 1 (kept) is pruned, sign -1 (pruned) restored;
  // cost = 2·sign·w·c + w²·g, +infinity in the array of the other side.
  void (*swap_costs)(const float* w, const float* c, const float* g, const float* sign, std::int64_t n,
                     float* prune_cost, float* restore_cost);
  // The smallest value of each of the 64 lanes of blocks of 64 (lane l: values l, l + 64, ...).
  void (*lane_minima)(const float* values, std::int64_t n, float* minima);
  // Indices of the values <= bound, in order; returns how many.
  std::int64_t (*at_most)(const float* values, std::int64_t n, float bound, std::int32_t* indices);

  // sparsegpt: one row's block of `size` columns, factor [size, size] upper triangular, kept: 1 or 0 a
  // column. For each column j: error_j = pruned ? w_j / factor_jj : 0; w_k -= error_j·factor_jk for k >= j.
  void (*compensate)(const float* factor, std::int64_t size, const unsigned char* kept, std::int64_t first,
                     std::int64_t last, float* w, float* errors);

  // Grids of few bits: the nearest value is scale·round(clamp(w/scale, lowest, highest)).
  // Σ importance·(w - nearest)²
  float (*grid_error)(const float* w, const float* importance, std::int64_t n, float scale, float lowest,
                      float highest);
  // As compensate, but a kept w_j becomes its nearest value, with the grid of each column, and what that
  // changes is made up for, too.
  void (*compensate_rounding)(const float* factor, std::int64_t size, const unsigned char* kept,
                              const float* scale, const float* lowest, const float* highest,
                              std::int64_t first, std::int64_t last, float* w, float* errors);
};

extern const RowLoops kBaselineRowLoops;
extern const RowLoops kAvx2RowLoops;
extern const RowLoops kAvx512RowLoops;

// The best table for this processor (cpu_features()).
const RowLoops& row_loops();

}  // namespace swiftprune
