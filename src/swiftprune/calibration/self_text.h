// Calibration without data: the model writes its own text. Samples are drawn at temperature 1 without a
// prompt.
#pragma once

#include <cstdint>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/sequence_generator.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct SelfTextOptions {
  std::int64_t windows = 1;
  std::int64_t seqlen = 2048;
  std::uint64_t seed = 0;
  std::int32_t first_token = 0;      // what each sample starts with: BOS
  std::int64_t sample_length = 512;  // tokens of a sample; longer ones drift (docs/method.md)
  ProgressFn progress;               // stage "writing calibration text", in tokens
};

TokenWindows self_text(const GeneratorMaker& make_generator, const SelfTextOptions& options);

}  // namespace swiftprune
