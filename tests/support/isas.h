// The instruction sets whose kernels this processor can run.
#pragma once

#include <string>
#include <vector>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune::testing {

inline std::vector<Isa> available_isas() {
  std::vector<Isa> isas{Isa::kBaseline};
  if (cpu_features().avx2) isas.push_back(Isa::kAvx2);
  if (cpu_features().avx512) isas.push_back(Isa::kAvx512);
  return isas;
}

inline std::string isa_label(Isa isa) {
  return isa == Isa::kBaseline ? "baseline" : isa == Isa::kAvx2 ? "avx2" : "avx512";
}

}  // namespace swiftprune::testing
