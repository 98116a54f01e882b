// Causal attention in tiles (online softmax): a tile of queries meets a tile of keys at a time, so no N×T
// matrix exists. Source: the tiling and running rescale of arXiv 2205.14135.
#pragma once

#include "swiftprune/backend/backend.h"

namespace swiftprune::cpu {

void attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& params,
               MatrixView out);

}  // namespace swiftprune::cpu
