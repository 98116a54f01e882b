// The question that a pruned model has to answer: at its size, would the dense model in fewer bits be better? The
// dense model is put on grids of 8, 4 and 3 bits, rounded to the nearest and solved, and measured beside it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "swiftprune/report/comparison.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct EqualBytesOptions {
  std::string model;         // the dense one, as the commands printed name it
  TokenWindows calibration;  // what the solved ones are solved on
  std::vector<std::string>
      calibration_arguments;   // flags that repeat those windows, for the commands printed
  std::filesystem::path work;  // folder for the models, which are removed again
};

// compare() of the input and of the dense model in few bits behind its models; of all how fast they decode, of
// models that are not packed the bytes that packing leaves; report.equal_bytes. Embeddings and output projection
// are in the bits that the first pruned model holds them in. Throws Error{kUsage} without a text, Error{kBadInput}
// where the dense model is packed.
ComparisonReport compare_at_equal_bytes(ComparisonInput input, Device& device,
                                        const EqualBytesOptions& options);

}  // namespace swiftprune
