// How many tokens of a prompt are taken at a time. Where answers are being written a chunk makes each of them wait, so it
// is bounded by what a step of theirs takes; both are measured as they run, since they depend on model, device, number of
// answers and position.
#pragma once

#include <cstdint>

namespace swiftprune {

class ChunkPace {
 public:
  // A token waits for a chunk and its own step. That is to be at most three of the steps between which no prompt is read,
  // of which half a step is left for what times differ by.
  static constexpr double kStepsAChunk = 1.5;
  // No less than this part of the most: what is read once for a whole chunk, weights above all, would be most of it.
  static constexpr std::int64_t kLeastPart = 16;
  static constexpr std::int64_t kMultiple = 16;  // of tokens, as products take rows

  explicit ChunkPace(std::int64_t most) : most_(most) {}

  // A step that gave every running answer its next token.
  void add_step(double seconds);
  void add_chunk(std::int64_t tokens, double seconds);
  // Tokens of the next chunk. delays: answers are being written.
  std::int64_t next(bool delays) const;

 private:
  std::int64_t most_;
  double step_ = 0.0;   // seconds; 0: none was seen
  double token_ = 0.0;  // seconds of one token of a chunk
};

}  // namespace swiftprune
