// Seeded random calibration windows for tests.
#pragma once

#include <random>

#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune::test {

inline TokenWindows random_windows(const Model& model, std::int64_t windows = 3, std::int64_t seqlen = 24) {
  std::mt19937 generator(3);
  TokenWindows result;
  result.seqlen = seqlen;
  for (std::int64_t i = 0; i < windows * seqlen; ++i) {
    result.ids.push_back(
        static_cast<std::int32_t>(generator() % static_cast<unsigned>(model.config().vocab_size)));
  }
  return result;
}

}  // namespace swiftprune::test
