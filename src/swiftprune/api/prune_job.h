// A model folder in, a pruned folder out, also on a grid of few bits: what `swiftprune prune` and `swiftprune quantize`
// do. Options have the names, defaults and meanings of the commands' (docs/method.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/api/calibration_text.h"
#include "swiftprune/api/job.h"
#include "swiftprune/calibration/stopping.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/choices/allocate_bits.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/method.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {

struct PruneReport {
  PruneResult result;
  Plan plan;
  CalibrationRecord calibration;
  std::optional<Allocation> allocation;
  PackReport packing;             // where the output is a packed model
  nlohmann::ordered_json record;  // swiftprune.json
  // Beside the stages of the result; total: of everything.
  struct Seconds {
    double text = 0.0, other = 0.0, total = 0.0;
  } seconds;
};
// Bits a weight of the linears of a packed output that were solved.
double stored_bits(const PruneReport& report);

struct PruneJob {
  std::string model;  // as locate_model()
  std::string out;    // must not exist or be empty
  std::string method{kDefaultMethod};
  std::string score, select, refine, propagate;  // empty: the method's
  double sparsity = 0.5;
  bool sparsity_given = false;  // then a pattern that fixes another one is refused
  std::string pattern = "row";
  std::string permute;        // empty: the plan file's, or none
  std::int64_t low_rank = 0;  // of the parts that stand beside the weights, in OUT/adapter; 0: none
  std::string allocate;       // empty: the method's
  // int8, int4 or int3; empty: none. With `bits` those to choose from, separated by commas; empty: all.
  std::string quantize;
  // Mean of bits a weight, as packed: each linear gets its bits and its zeros under it, instead of sparsity.
  std::optional<double> bits;
  bool zeros = true;  // false: bits alone are found, no weight is pruned
  std::string group;  // of quantize; empty: its default
  bool asymmetric = false;
  std::string store;       // packed or dense; empty: packed
  std::string embeddings;  // of a packed model: int8 or int4; empty: as they are
  CalibrationText calibration;
  std::string windows;  // a number, "auto", or empty: the method's
  std::vector<std::string> skip;
  std::vector<std::pair<std::string, std::string>> overrides;  // shell pattern of names, settings
  std::string plan_file;
  std::optional<double> lambda;
  double alpha = SelectorOptions{}.alpha;
  double beta = SelectorOptions{}.beta;
  std::int64_t min_expert_tokens = kMinExpertTokens;
  bool resume = false;
  JobDevice where;

  // An interrupted run leaves nothing, with `resume` its finished blocks.
  Outcome<PruneReport> run(const JobContext& context = {}) const;
};

// Weights on a grid of few bits, without zeros.
struct QuantizeJob : PruneJob {
  QuantizeJob() {
    sparsity = 0.0;
    zeros = false;
  }
};

// -- What run() is made of, for the commands, which have the model and the device open.

// What the linears are put on; with `bits` those to choose from, the finest first; empty: none.
std::vector<QuantGrid> grids_of(const PruneJob& job, const ModelConfig& model);

// What will be done, decided and asked of the device: nothing is computed yet. Throws Error{kUsage}.
struct PreparedPrune {
  const Method* method = nullptr;
  Plan plan;
  PruneOptions options;
  bool allocates = false;        // sensitivities are measured first
  std::optional<BitsGoal> bits;  // and choose bits as well
  bool packs = false;            // the output is a packed model
  PackOptions tables;            // of it
};
PreparedPrune prepare(const PruneJob& job, const Model& model, Device& device, ComputeType compute);

// Of a plan that allocates: measures, and spreads zeros, or bits and zeros, over it.
Allocation allocate(PreparedPrune& prepared, const Model& model, Device& device, const TokenWindows& windows,
                    Communicator& ranks = alone());

// As many as were asked for, else as the method takes on this device.
std::int64_t counted_windows(const PruneJob& job, const Model& model, const Device& device,
                             const Method& method);

// The windows that the run reads, and for windows "auto" what was measured.
struct Calibration {
  TokenWindows windows;
  std::optional<StableWindows> stopping;
};
Calibration calibrate(const PruneJob& job, const PreparedPrune& prepared, const Model& model, Device& device,
                      const NoteFn& note);

// Of ranks the first one writes, and has the report; the others' is empty. The calibration text has been fit to the model.
std::optional<PruneReport> prune(const PruneJob& job, PreparedPrune prepared, const Model& model,
                                 Device& device, const JobOrigin& origin, const NoteFn& note,
                                 Communicator& ranks = alone());

// Zeros stay zeros: of a model that was sparser than asked, how much; else nothing.
std::optional<double> sparsity_before(const Model& model, const Plan& plan, double sparsity);
std::string sparser_note(const std::string& model, double before, const Plan& plan);

// What an interrupted run leaves to a later one with `resume`, in words; empty: nothing.
std::string kept_blocks(const PruneJob& job);

}  // namespace swiftprune
