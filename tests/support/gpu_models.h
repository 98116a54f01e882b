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

inline std::vector<std::string> those_a_gpu_has(const std::vector<std::string>& all) {
  std::vector<std::string> names;
  for (const std::string& name : all) {
    if (gpu_has(Model::open(model_folder(name))->config())) names.push_back(name);
  }
  return names;
}

// Looked at once a process, of which ctest starts one a case.
inline const std::vector<std::string>& gpu_model_names() {
  static const std::vector<std::string> names = those_a_gpu_has(model_names());
  return names;
}
inline const std::vector<std::string>& gpu_expert_model_names() {
  static const std::vector<std::string> names = those_a_gpu_has(expert_model_names());
  return names;
}

}  // namespace swiftprune::test
