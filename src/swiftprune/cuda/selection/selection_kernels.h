// Launchers of selection (rows.cu, groups.cu, layer_select.cu), as runtime/launch.h has them.
// Keys as in scoring/scores.h: |w·fma(row, slope, column)| to the bit; the lowest are pruned, ties from the
// lower index on: the masks of the CPU's selectors.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// What a pruning launch adds up, in device memory; zero it before the first launch.
struct PruneCounters {
  static constexpr int kLanes = 64;      // spread, so that blocks do not queue for one counter
  unsigned long long zeros[kLanes * 4];  // weights that are zero afterwards: the sum of all entries
  unsigned int not_finite;               // not 0: a key was not finite, and the output is to be dropped
};

struct PruneRowsArgs {
  const void* in = nullptr;  // [rows, cols] weights
  void* out = nullptr;       // [rows, cols], may be `in`; pruned ones become +0
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  const float* column = nullptr;  // [cols] or null (ones)
  const float* row = nullptr;     // [rows] or null, with slope
  const float* slope = nullptr;   // [cols] or null
  std::uint8_t* mask = nullptr;   // [rows, cols] gets 1 where kept, else 0; or null
  PruneCounters* counters = nullptr;
};

// Prunes counts[r] (or, when null, `count`) weights of row r. One pass over the memory for cols <= 32768 that
// are a multiple of 8 (F32: 16384), else several over the cache.
void prune_rows(const PruneRowsArgs& args, std::int64_t count, const std::int32_t* counts,
                cudaStream_t stream);
// Keeps n of every m consecutive weights; m divides cols, m <= 32.
void prune_groups(const PruneRowsArgs& args, int n, int m, cudaStream_t stream);

// Over the whole matrix (layer_select.cu). counts [rows]: how many weights of each row are among the `count`
// lowest of the matrix, as prune_rows() takes them. scratch: layer_scratch(rows) bytes.
std::int64_t layer_scratch(std::int64_t rows);
void layer_counts(const PruneRowsArgs& args, std::int64_t count, void* scratch, std::int32_t* counts,
                  cudaStream_t stream);
// sums [tiles] of key^power over tiles that divide the matrix, tile rows first; then, with the host's choice
// kept [tiles], the mask [rows, cols].
void tile_sums(const PruneRowsArgs& args, std::int64_t tile_rows, std::int64_t tile_cols, int power,
               double* sums, cudaStream_t stream);
void expand_tiles(const std::uint8_t* kept, std::int64_t rows, std::int64_t cols, std::int64_t tile_rows,
                  std::int64_t tile_cols, std::uint8_t* mask, cudaStream_t stream);
// out = in where the mask is 1, else +0; n weights.
void apply_mask(const void* in, const std::uint8_t* mask, std::int64_t n, void* out, DType dtype,
                PruneCounters* counters, cudaStream_t stream);
// The numbers of scoring/random.cpp from its first state on.
void random_scores(std::uint64_t first_state, std::int64_t n, float* scores, cudaStream_t stream);

// One step of admm (refinement/admm.h) after its product: y [rows, cols] holds Y; the weights of the pattern
// are chosen by |Y|, then t = 2Z - Y (F16) and y = constant + Y - Z. `result`, when given, gets Z (F32)
// instead of both: the last step.
struct AdmmStepArgs {
  float* y = nullptr;               // [rows, cols]
  const float* constant = nullptr;  // [rows, cols]
  void* t = nullptr;                // [rows, cols] F16
  float* result = nullptr;          // [rows, cols] or null
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};
void admm_step_rows(const AdmmStepArgs& args, std::int64_t count, const std::int32_t* counts,
                    cudaStream_t stream);
void admm_step_groups(const AdmmStepArgs& args, int n, int m, cudaStream_t stream);
void admm_step_mask(const AdmmStepArgs& args, const std::uint8_t* mask, cudaStream_t stream);  // refine.cu

}  // namespace swiftprune::cuda
