// The question that a pruned model has to answer: at its size, would the dense model in fewer bits be better? The
// dense model is put on grids of 8, 4 and 3 bits and measured beside it: rounded to the nearest, which takes seconds, and
// solved, which takes as long as pruning, where rounding does not settle the question.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "swiftprune/report/comparison.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct EqualBytesOptions {
  std::string model;  // the dense one, as the commands printed name it
  // What models are solved on; asked for once, when there is something to solve.
  std::function<TokenWindows()> calibration;
  std::string calibration_source;  // its name, for the notes
  std::vector<std::string>
      calibration_arguments;   // flags that repeat those windows, for the commands printed
  std::filesystem::path work;  // folder for the models, which are removed again
  bool solve_all = false;      // every width, also where rounding settles the question
};

// compare() of the input and of the dense model in few bits behind its models; of all how fast they decode, of
// models that are not packed the bytes that packing leaves; report.equal_bytes, and a note of what was solved on what.
// Solved is, for each pruned model that is better than every rounded one of its size, the width of most bits among these;
// one that a rounded model beats already is not helped by a better rival. Embeddings and output projection are in the bits
// that the first pruned model holds them in. Throws Error{kUsage} without a text, Error{kBadInput} where the dense model is
// packed.
ComparisonReport compare_at_equal_bytes(const ComparisonInput& input, Device& device,
                                        const EqualBytesOptions& options);

}  // namespace swiftprune
