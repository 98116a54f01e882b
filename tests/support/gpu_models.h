// The tiny models whose forward a GPU has: the others are refused by name (pipeline/capabilities_test.cpp).
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "model/family_fixture.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/model/model.h"

namespace swiftprune::test {

inline bool gpu_has(const ModelConfig& model) {
  const auto& has = cuda::capabilities().features;
  return std::ranges::includes(has, features_of(model));
}

inline std::vector<std::string> gpu_model_names() {
  std::vector<std::string> names;
  for (const std::string& name : model_names()) {
    if (gpu_has(Model::open(kModels / name)->config())) names.push_back(name);
  }
  return names;
}

}  // namespace swiftprune::test
