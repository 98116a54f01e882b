// Structured pruning: units are taken out of every block and the output projections that read them are
// refitted, one decoder block at a time, so that a smaller dense model of the same family is left. While the
// calibration runs, removed units are zero columns of their output projection, which computes the same.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/tensor_output.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/structure/refit.h"
#include "swiftprune/structure/shrink_shape.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

enum class Compensation {
  kNone,     // what is left stays as it is
  kBias,     // the mean of what went is added to a bias, which config.json must know (FLAP)
  kRefit,    // output projections by least squares on the shrunk model's own inputs; one forward
  kAligned,  // every linear by least squares towards the dense model's outputs; two forwards
};
std::string_view name_of(Compensation compensation);
Compensation parse_compensation(std::string_view name);  // Error{kUsage} naming --compensate

// The output projections that lose units and need a bias which the dense model lacks; the other linears of
// that part of the block get one of zeros, since config.json has one switch for all of them. Empty but for
// kBias. Throws Error{kUsage} naming --compensate where the family has no such switch.
std::vector<LinearInput> added_biases(const ModelConfig& model, const ShrinkShape& shape,
                                      Compensation compensation);

struct ShrinkOptions {
  std::string score = "contribution";
  Compensation compensation = Compensation::kAligned;
  RefitOptions refit{.damping = 0.1, .alpha = 0.35, .beta = 0.5};  // alpha and beta of kAligned
  ComputeType compute = ComputeType::kF32;
  // The processes that do this run together: as PruneOptions::ranks.
  Communicator* ranks = &alone();
  ProgressFn progress = [](std::string_view, std::int64_t, std::int64_t) {};  // stage "shrink", in blocks
};

struct ShrinkSeconds {
  double load = 0.0;
  double forward = 0.0;  // of the calibration windows, and their statistics
  double solve = 0.0;    // scores and least squares
  double write = 0.0;
  double total = 0.0;
};

struct ShrunkBlock {
  std::int64_t layer = 0;  // of the dense model
  KeptUnits kept;
};

struct ShrinkResult {
  std::vector<ShrunkBlock> blocks;
  ShrinkSeconds seconds;
};

// Takes the tensors of the linears of every block that stays, by their names in the dense model and at their
// new sizes.
class ShrinkOutput : public TensorOutput {
 public:
  virtual void write_bias(const std::string& name, std::span<const float> values) = 0;
};

// Throws Error{kBadInput} for a packed model and for one whose layers differ in size already.
void check_shrinkable(const Model& model);

// On the processor. removed_layers: rising; shape.layers are left. windows: calibration text, at least one
// window. Throws Error{kBadInput} for activations that are not finite.
ShrinkResult shrink(const Model& model, const Backend& backend, const ShrinkShape& shape,
                    std::span<const std::int64_t> removed_layers, const TokenWindows& windows,
                    const ShrinkOptions& options, ShrinkOutput& output);

// What shrink() expects of its arguments; check_shrinkable() too.
void check_shrink(const Model& model, const ShrinkShape& shape, std::span<const std::int64_t> removed_layers,
                  const TokenWindows& windows);

}  // namespace swiftprune
