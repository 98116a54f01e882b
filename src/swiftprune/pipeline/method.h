// The methods by name: each is a composition of a score, a selection and a refinement, with the calibration
// it needs. A comparison between two of them runs the same code but for these parts.
#pragma once

#include <span>
#include <string_view>

#include "swiftprune/refinement/refine_spec.h"
#include "swiftprune/scoring/score_spec.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {

enum class Propagation {
  kPruned,  // the next block sees what the pruned blocks give (two forwards)
  kDense,   // the next block sees what the dense model gives (one forward)
};
std::string_view name_of(Propagation propagation);

struct Method {
  std::string_view name;
  ScoreSpec score;      // for unstructured and block patterns
  ScoreSpec n_m_score;  // for N:M
  SelectKind select;
  RefineSpec refine;
  int windows;      // of calibration text, on a processor
  int gpu_windows;  // on a GPU, where more of them cost little (Device::default_windows)
  Propagation propagation;
  bool allocates;  // unstructured patterns: spreads the sparsity by sensitivity unless told otherwise
  std::string_view summary;
  std::string_view source;
};

inline constexpr std::string_view kDefaultMethod = "best";
std::span<const Method> methods();
// Throws Error{kUsage} naming --method, with the list.
const Method& method_by_name(std::string_view name);

}  // namespace swiftprune
