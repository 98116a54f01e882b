// A model folder in, a smaller dense folder of the same family out: channels, heads or layers go, or whole experts, or
// inner channels of experts. What `swiftprune shrink` does. Options have the names, defaults and meanings of the
// command's (docs/structured.md).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include <nlohmann/json.hpp>

#include "swiftprune/api/calibration_text.h"
#include "swiftprune/api/job.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/choices/shape_choice.h"
#include "swiftprune/pipeline/decode_time.h"
#include "swiftprune/pipeline/drivers/narrow_experts.h"
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "swiftprune/pipeline/drivers/shrink.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

// What became of channels, heads and layers.
struct ShrunkUnits {
  ShapeChoice choice;
  ShrinkResult result;
};

struct ShrinkReport {
  // By what was removed: channels, heads and layers; experts; inner channels of experts.
  std::variant<ShrunkUnits, RemoveExpertsResult, NarrowExpertsResult> result;
  CalibrationRecord calibration;
  std::int64_t parameters = 0;    // of the new folder
  nlohmann::ordered_json record;  // swiftprune.json
};

struct ShrinkJob {
  std::string model;  // as locate_model()
  std::string out;    // must not exist or be empty
  // How much: one of these three; of experts `ratio` or `experts`.
  std::optional<double> ratio;
  std::optional<std::int64_t> target_params;
  std::optional<double> target_ms;
  std::string plan;  // instead: a file of what is left of each layer (pipeline/shrink_plan.h)
  std::string units = "mlp";
  std::optional<std::int64_t> experts;  // of each layer that stay
  bool keep_super = true;               // experts that make massive activations stay
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
  bool resume = false;  // of experts
  JobDevice where;

  // An interrupted run leaves nothing, of experts with `resume` its finished layers.
  Outcome<ShrinkReport> run(const JobContext& context = {}) const;
};

// -- What run() is made of, for the command, which has the model and the device open.

struct UnitsToRemove {
  ShapeRequest request;  // unused where the job has a plan
  ShrinkOptions options;
  bool aligns_for_layers = false;  // compensate "auto": where layers go, aligned
  nlohmann::ordered_json measured = nlohmann::ordered_json::object();  // what the ratio rests on
};
// What will be done, by what is to go: nothing is computed yet, but that the dense model is timed for target_ms. given:
// was an option (by its name on the command line) asked for? One that means nothing to what is done is refused. Throws
// Error{kUsage}. The calibration text has been fit to the model.
using PreparedShrink = std::variant<UnitsToRemove, RemoveExpertsOptions, NarrowExpertsOptions>;
using GivenFn = std::function<bool(std::string_view option)>;
PreparedShrink prepare(const ShrinkJob& job, const Model& model, Device& device, ComputeType compute,
                       const GivenFn& given, Communicator& ranks = alone());

// Of ranks the first one writes, and has the report; the others' is empty.
std::optional<ShrinkReport> shrink(const ShrinkJob& job, PreparedShrink prepared, const Model& model,
                                   Device& device, const JobOrigin& origin, const NoteFn& note,
                                   Communicator& ranks = alone());

// What an interrupted run leaves to a later one with `resume`, in words; empty: nothing.
std::string kept_layers(const ShrinkJob& job);

// Of all tensors.
std::int64_t num_parameters(const Checkpoint& checkpoint);

}  // namespace swiftprune
