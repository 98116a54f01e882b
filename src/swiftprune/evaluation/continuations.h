// Log-likelihoods of continuations. The sequences of an item (a question with each of its choices) share
// their common beginning, which is run once; many items go through a block together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/text_forwards.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

struct ScoredSequence {
  std::vector<std::int32_t> ids;
  std::int64_t num_context = 0;  // tokens [num_context, size) are scored; at least 1
};

struct SequenceScore {
  double log_prob = 0.0;  // of all scored tokens, nats
  bool greedy = true;     // each of them is the likeliest one
};

struct ContinuationScores {
  std::vector<std::vector<SequenceScore>> items;  // as given
  std::int64_t num_forwarded = 0;                 // tokens that the model ran on
  std::int64_t num_unshared = 0;                  // tokens of all sequences, had each been run alone
};

// Items go through the blocks in batches, which ranks share out: of at least so many tokens where there are, and about
// kTaskBatches of them, whatever the number of ranks.
inline constexpr std::int64_t kTaskBatchTokens = 8192;
inline constexpr std::int64_t kTaskBatches = 16;

// Sequences have at most max_positions + 1 tokens (the last one is not run). forwards: of this model;
// progress: stage "tasks", of all ranks' batches. ranks: all have the result, the same bits as of one process.
ContinuationScores score_continuations(const Model& model, TextForwards& forwards,
                                       std::span<const std::vector<ScoredSequence>> items,
                                       const ProgressFn& progress, Communicator& ranks = alone());

}  // namespace swiftprune
