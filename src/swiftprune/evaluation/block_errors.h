// Where a pruned model's error comes from: what each block and each linear adds by itself, and what they pass
// on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct LinearError {
  std::string name;
  double error = 0.0;  // |X (W - B)ᵀ|² / |X Wᵀ|² on the dense model's inputs X
};

struct BlockError {
  std::int64_t layer = 0;
  // |pruned(h) - dense(h)|² / |dense(h) - h|² on the dense model's hidden states h: this block's own doing,
  // relative to what the block contributes.
  double own = 0.0;
  // |h' - h|² / |h|² after the block, h' of the pruned model alone: everything up to here.
  double total = 0.0;
  std::vector<LinearError> linears;  // those of the same shape in both models
};

// |a - b|², |b|² of matrices of which b is the reference.
struct Squares {
  double difference = 0.0, reference = 0.0;

  Squares& operator+=(const Squares& other) {
    difference += other.difference;
    reference += other.reference;
    return *this;
  }
  double relative() const { return reference > 0.0 ? difference / reference : 0.0; }
};

// What the errors of one block are made of.
struct BlockSquares {
  Squares own;                   // pruned(h) against dense(h), on the dense model's hidden states
  Squares contribution;          // h against dense(h)
  Squares total;                 // h' against dense(h), h' of the pruned model alone
  std::vector<Squares> linears;  // of each linear of the dense block; zeros where the shapes differ
};

// Both models' hidden states of some windows, wherever they are computed: make_cpu_paired_blocks() computes
// on the processor, Device::paired_blocks() wherever it is.
class PairedBlocks {
 public:
  virtual ~PairedBlocks() = default;
  // Runs both through this block; layers come in order.
  virtual BlockSquares run(std::int64_t layer) = 0;
};
using PairedBlocksMaker = std::function<std::unique_ptr<PairedBlocks>(TokenWindows windows)>;
// Keeps references to the models and the backend.
std::unique_ptr<PairedBlocks> make_cpu_paired_blocks(const Model& dense, const Model& pruned,
                                                     const Backend& backend, TokenWindows windows,
                                                     ComputeType compute);

// On the first max_tokens tokens or so (whole windows, at least one). Nothing when the models differ in
// number of blocks or hidden size.
std::optional<std::vector<BlockError>> block_errors(const Model& dense, const Model& pruned,
                                                    const PairedBlocksMaker& make_blocks,
                                                    const TokenWindows& windows, std::int64_t max_tokens,
                                                    const ProgressFn& progress);

}  // namespace swiftprune
