// The options of `swiftprune shrink`, shared by what takes channels, heads and layers out and what takes experts out.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "calibration_text.h"
#include "command.h"
#include "model_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "swiftprune/pipeline/drivers/shrink.h"

namespace swiftprune::cli {

struct ShrinkFlags {
  CommonOptions common;
  std::string model;
  std::string out;
  std::optional<double> ratio;
  std::optional<std::int64_t> target_params;
  std::optional<double> target_ms;
  std::string units = "mlp";
  std::optional<std::int64_t> experts;
  bool no_keep_super = false;
  std::int64_t rounds = RemoveExpertsOptions{}.rounds;
  std::int64_t align = 32;
  bool non_uniform = false;
  std::string widths_by = "change";
  std::string score = "auto";
  std::string layers_by = "greedy";
  std::string compensate = "auto";
  double damping = ShrinkOptions{}.refit.damping;
  double alpha = ShrinkOptions{}.refit.alpha;
  double beta = ShrinkOptions{}.refit.beta;
  CalibrationText calibration;
  std::int64_t windows = 16;
  std::string compute = "auto";
  DeviceFlags device;
  bool dry_run = false;
  bool resume = false;
  std::string kept;  // what an interrupted run leaves to a later --resume, once it is known

  const CLI::App* command = nullptr;
  // Throws Error{kUsage} for the first of these flags that was given.
  void refuse(std::initializer_list<const char*> names, std::string_view with) const {
    for (const char* name : names) {
      if (command->count(name) > 0) bad_usage("{}: found it with {}, which it means nothing to", name, with);
    }
  }
};

// --units experts (shrink_experts.cpp).
void shrink_experts(ShrinkFlags& flags);

// --units mlp of a model with experts (shrink_widths.cpp).
void shrink_expert_widths(ShrinkFlags& flags, const RunScope& job, Device& device, const Model& model);

std::int64_t num_parameters(const Checkpoint& checkpoint);

}  // namespace swiftprune::cli
