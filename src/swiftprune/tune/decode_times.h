// What plans take of a decode step (one sequence, a short text): the product of each linear at each level, as the
// autotuner measures it for its shape and storage, and how well their sum predicts the step of a whole model, whose
// linears hold stand-ins: weights of that shape, storage and share of zeros, since speed does not depend on values.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "swiftprune/core/progress.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/tune/level_store.h"

namespace swiftprune {

// What is timed, in microseconds.
class DecodeClock {
 public:
  virtual ~DecodeClock() = default;
  // A product with one token, in the form of the weight that is fastest there.
  virtual double product_us(const PackedTensor& weight) = 0;
  struct Steps {
    double dense_us = 0.0, beside_us = 0.0;
  };
  // A decode step of both models, in the same rounds.
  virtual Steps steps(const Model& dense, const Model& beside) = 0;
};
// Of the device, as `swiftprune bench --batch 1 --prompt 64 --decode 64` measures steps. Keeps a reference to it.
std::unique_ptr<DecodeClock> device_clock(Device& device, ComputeType compute, ProgressFn progress);

class DecodeTimes {
 public:
  // Measures the dense model. work: a folder for stand-ins, which go again. Of several ranks the first one measures.
  // Keeps references.
  DecodeTimes(const Model& model, DecodeClock& clock, std::filesystem::path work, Communicator& ranks);

  // Microseconds. Of the model as it is:
  double dense_us() const { return dense_us_; }
  // Of a product with one token; level.zeros counts. Measured once for a shape and level, shares of zeros at twentieths
  // and in a straight line between them.
  double product_us(const PlanEntry& entry, const SolvedLevel& level);
  // Of a model whose products take this much less than the dense one's, as far as was learned.
  double step_us(double saved_us) const { return dense_us_ - gain_ * saved_us; }
  // What products have to save so that a step takes so long.
  double saved_for(double step_us) const { return (dense_us_ - step_us) / gain_; }
  // Measures a model with these levels, one for each of the entries, and learns from it how far products that save so
  // much save it of a step.
  double measure(std::span<const PlanEntry* const> entries, std::span<const SolvedLevel> levels,
                 double saved_us);

 private:
  double stand_in_us(const PlanEntry& entry, const SolvedLevel& level, int twentieths);

  const Model& model_;
  DecodeClock& clock_;
  const std::filesystem::path work_;
  Communicator& ranks_;
  double dense_us_ = 0.0;
  double gain_ = 1.0;
  std::map<std::string, double> known_;  // microseconds of the stand-ins' products
};

}  // namespace swiftprune
