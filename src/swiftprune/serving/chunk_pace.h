// How many tokens of a prompt are taken at a time. Where answers are being written a chunk makes each of them wait, so it
// is bounded by what a step of theirs takes; both are measured as they run, since they depend on model, device, number of
// answers and position.
#pragma once

#include <cstdint>
#include <vector>

namespace swiftprune {

class ChunkPace {
 public:
  // A token waits for a chunk and its own step. That is to be at most three of the steps between which no prompt is read,
  // of which half a step is left for what times differ by.
  static constexpr double kStepsAChunk = 1.5;
  // No less than this part of the most: what is read once for a whole chunk, weights above all, would be most of it.
  static constexpr std::int64_t kLeastPart = 16;
  static constexpr std::int64_t kMultiple = 16;  // of tokens, as products take rows
  // Passes for which a measured step counts: what else the machine does changes, and steps become longer with positions.
  static constexpr std::int64_t kFresh = 64;

  explicit ChunkPace(std::int64_t most) : most_(most) {}

  // A pass that gave so many answers their next token.
  void add_step(std::int64_t answers, double seconds);
  // A pass for tokens of a prompt, or for both.
  void add_chunk(std::int64_t tokens, double seconds);
  void add_both(std::int64_t answers, std::int64_t tokens, double seconds);
  // A step of so many answers, or of nearly as many, was measured not long ago.
  bool knows_step(std::int64_t answers) const { return step_of(answers) > 0.0; }
  // Tokens of the next chunk while so many answers are being written and so many prompts wait for their first token, the
  // one that is read among them. Where more wait than write, the chunk is longer in proportion: a second that an answer
  // waits is as long as one that a prompt does.
  std::int64_t next(std::int64_t answers, std::int64_t prompts) const;

 private:
  struct Step {
    double seconds = 0.0;
    std::int64_t pass = 0;  // in which it was measured
  };
  double step_of(std::int64_t answers) const;  // seconds; 0: unknown

  std::int64_t most_;
  std::int64_t passes_ = 0;
  std::vector<Step> steps_;  // by the number of answers
  double token_ = 0.0;       // seconds of one token of a chunk; 0: none was seen
  double beside_ = 0.0;      // the same in a pass for both: what it adds to the step
};

}  // namespace swiftprune
