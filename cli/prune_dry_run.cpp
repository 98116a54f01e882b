#include "prune_dry_run.h"

#include <algorithm>
#include <map>
#include <random>

#include <fmt/format.h>

#include "machine.h"
#include "model_text.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/pilot/block_trial.h"
#include "swiftprune/pipeline/adapter_output.h"
#include "swiftprune/pipeline/choices/allocate_bits.h"

namespace swiftprune::cli {
namespace {

// "row 50 %, wanda, none", and on a grid "..., int4(64)": what tensors have in common.
std::string treatment_of(const PlanEntry& entry) {
  if (!entry.prune) return "left as they are";
  std::string text = entry.asked_sparsity() > 0.0
                         ? fmt::format("{} {:.4g} %, score {}, ", format(entry.pattern),
                                       100.0 * entry.asked_sparsity(), format(entry.score))
                         : std::string();
  text += fmt::format("refine {}", format(entry.refine));
  if (entry.grid) text += ", " + format(*entry.grid);
  if (entry.low_rank > 0) text += fmt::format(", low rank {}", entry.low_rank);
  return text;
}

// Linears of one grid together, with the range of their zeros.
void print_levels(const Plan& plan) {
  struct Level {
    std::int64_t tensors = 0;
    double weights = 0.0, least = 1.0, most = 0.0;
  };
  std::map<std::string, Level> levels;
  for (const PlanEntry& entry : plan.entries) {
    const bool zeros = entry.asked_sparsity() > 0.0;
    Level& level =
        levels[!entry.prune ? "left as they are"
                            : (entry.grid ? format(*entry.grid) : "16 bits") + (zeros ? " and zeros" : "")];
    ++level.tensors;
    level.weights += entry.num_weights();
    level.least = std::min(level.least, entry.asked_sparsity());
    level.most = std::max(level.most, entry.asked_sparsity());
  }
  for (const auto& [name, level] : levels) {
    fmt::print(
        "{:<12}{} tensors, {:.1f} M weights: {}{}\n", "plan", level.tensors, 1e-6 * level.weights, name,
        level.most > 0.0 ? fmt::format(", {:.0f} to {:.0f} %", 100.0 * level.least, 100.0 * level.most) : "");
  }
}

void print_treatments(const Plan& plan) {
  std::map<std::string, std::pair<std::int64_t, double>> treatments;  // tensors, weights
  for (const PlanEntry& entry : plan.entries) {
    auto& [tensors, weights] = treatments[treatment_of(entry)];
    ++tensors;
    weights += entry.num_weights();
  }
  for (const auto& [treatment, count] : treatments) {
    fmt::print("{:<12}{} tensors, {:.1f} M weights: {}\n", "plan", count.first, 1e-6 * count.second,
               treatment);
  }
}

void print_plan_text(const PruneDryRun& run, const Model& model, const Plan& plan,
                     const TokenWindows& windows, const BlockTrial& trial, double seconds, double disk) {
  fmt::print("dry run     nothing is written; {} blocks, family {}\n", model.config().num_layers(),
             model.config().family);
  run.chooses_bits ? print_levels(plan) : print_treatments(plan);
  if (run.chooses_bits) {
    fmt::print("{:<12}{:.3f} a weight of the linears on grids, packed{}\n", "bits", packed_bits(plan),
               run.writes_text ? "; chosen on random text here" : "");
  } else if (run.allocates) {
    fmt::print("{:<12}spread by sensitivity, which is measured first\n", "sparsity");
  }
  if (windows.num_windows() > 0) {
    fmt::print("{:<12}{} windows of {} tokens from {}\n", "calibration", windows.num_windows(),
               windows.seqlen, run.calibration);
  }
  fmt::print("{:<12}about {:.3g} s ({} of {} blocks took {:.3g} s){}\n", "time", seconds, trial.num_blocks,
             model.config().num_layers(), trial.seconds,
             run.writes_text ? ", and what the model takes to write the text" : "");
  fmt::print("{:<12}{} at the most in these blocks; {} available\n", "memory", human_bytes(peak_memory()),
             human_bytes(read_memory().available));
  fmt::print("{:<12}{}{} to write, {} free\n", "disk", run.packs ? "at most " : "", human_bytes(disk),
             human_bytes(free_bytes(run.out)));
}

}  // namespace

TokenWindows stand_in_windows(const Model& model, std::int64_t count, std::int64_t seqlen) {
  TokenWindows windows{seqlen, std::vector<std::int32_t>(static_cast<std::size_t>(count * seqlen))};
  std::mt19937 random(0);
  std::uniform_int_distribution<std::int32_t> id(0, static_cast<std::int32_t>(model.config().vocab_size) - 1);
  for (std::int32_t& token : windows.ids) token = id(random);
  return windows;
}

void print_dry_run(const PruneDryRun& run, const Model& model, Device& device, const Plan& plan,
                   const TokenWindows& windows, const PruneOptions& options) {
  check_new_folder(run.out);
  const BlockTrial trial = try_first_blocks(model, device, plan, windows, options);
  const double seconds = trial.whole_seconds * (run.allocates ? 1.0 + kAllocationShare : 1.0);
  auto disk = static_cast<double>(weight_bytes(model));
  for (const PlannedTensor& tensor : plan_adapter(model.checkpoint(), plan))
    disk += static_cast<double>(tensor.shape[0] * tensor.shape[1] * size_of(tensor.dtype));
  clear_progress();
  if (run.common.json) {
    nlohmann::ordered_json document = {
        {"dry_run", true},
        {"plan", to_json(plan)},
        {"calibration",
         {{"source", run.calibration}, {"windows", windows.num_windows()}, {"seqlen", windows.seqlen}}},
        {"estimate",
         {{"seconds", seconds},
          {"trial_blocks", trial.num_blocks},
          {"trial_seconds", trial.seconds},
          {"memory_bytes", peak_memory()},
          {"disk_bytes", disk},
          {"free_disk_bytes", free_bytes(run.out)}}}};
    if (run.chooses_bits) document["estimate"]["bits"] = packed_bits(plan);
    print_json(document);
  } else {
    print_plan_text(run, model, plan, windows, trial, seconds, disk);
  }
}

}  // namespace swiftprune::cli
