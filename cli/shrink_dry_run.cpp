#include "shrink_dry_run.h"

#include <map>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "machine.h"
#include "prune_dry_run.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/overloaded.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pilot/block_trial.h"
#include "swiftprune/pipeline/drivers/shrink_shop.h"
#include "swiftprune/pipeline/shrink_plan.h"

namespace swiftprune::cli {
namespace {

using Json = nlohmann::ordered_json;

class Nowhere final : public ShrinkOutput, public ReducedExpertsOutput {
 public:
  void write_part(const std::string&, std::int64_t, std::span<const std::byte>) override {}
  void write_bias(const std::string&, std::span<const float>) override {}
  void write_down(std::int64_t, std::int64_t, ConstMatrixView) override {}
  void write_bias(std::int64_t, std::int64_t, std::span<const float>) override {}
  void keep(const ReducedLayer&) override {}
  void finish_layer(const ReducedLayer&) override {}
  Matrix read_down(std::int64_t, std::int64_t) override { return {}; }
  std::vector<float> read_bias(std::int64_t, std::int64_t) override { return {}; }
};

// Linears that change alike, whatever their block: "model.layers.*.mlp.up_proj.weight".
struct Change {
  std::string name;
  std::vector<std::int64_t> from, to;
  std::int64_t count = 0;
};

std::vector<Change> changes_of(const ModelConfig& model, const ShrinkShape& shape) {
  std::vector<Change> changes;
  std::map<std::pair<std::string, std::vector<std::int64_t>>, std::size_t> known;
  for (std::size_t b = 0; b < model.blocks.size(); ++b) {
    const BlockConfig& block = model.blocks[b];
    const auto layer = static_cast<std::int64_t>(b);
    if (shape.channels_in(layer) == 0) continue;  // goes as a whole
    KeptUnits kept = all_units(model);            // any units of the right number
    kept.channels.resize(static_cast<std::size_t>(shape.channels_in(layer)));
    kept.groups.resize(static_cast<std::size_t>(shape.groups_in(layer)));
    const std::vector<LinearTensors> linears = linears_of(block);
    const std::vector<KeptPart> parts = kept_parts(model, block, kept);
    for (std::size_t i = 0; i < linears.size(); ++i) {
      const bool all = parts[i].columns.empty();
      const std::int64_t columns = all ? linears[i].inputs : std::ssize(parts[i].columns);
      Change change{linears[i].name + ".weight",
                    {linears[i].outputs, linears[i].inputs},
                    {std::ssize(parts[i].rows), columns}};
      if (change.from == change.to) continue;
      const std::string number = fmt::format(".{}.", b);
      if (const std::size_t at = change.name.find(number); at != std::string::npos)
        change.name.replace(at, number.size(), ".*.");
      std::vector<std::int64_t> sizes = change.from;
      sizes.insert(sizes.end(), change.to.begin(), change.to.end());
      const auto [place, is_new] = known.emplace(std::pair{change.name, sizes}, changes.size());
      if (is_new) changes.push_back(std::move(change));
      ++changes[place->second].count;
    }
  }
  return changes;
}

Json to_json(const std::vector<Change>& changes) {
  Json list = Json::array();
  for (const Change& change : changes) {
    list.push_back(
        {{"name", change.name}, {"count", change.count}, {"from", change.from}, {"to", change.to}});
  }
  return list;
}

std::string text_of(const ModelConfig& model, const ShrinkShape& shape) {
  return fmt::format("{} layers, {} heads ({} key heads), MLP {}: {:.2f} % of the blocks' parameters go",
                     shape.layers, model.num_heads / model.num_kv_heads * shape.groups, shape.groups,
                     shape.channels, 100.0 * ratio_of(model, shape));
}

struct Estimate {
  BlockTime trial;
  double seconds = 0.0, disk = 0.0;
  std::int64_t parameters = 0;  // that are left
  std::vector<std::string> not_estimated;
};

// Text that the model is still to write is not written for a dry run.
TokenWindows windows_of(const ShrinkFlags& flags, const Model& model, Device& device, ComputeType compute,
                        const ProgressFn& progress, Estimate& estimate) {
  if (flags.job.calibration.is_self()) {
    estimate.not_estimated.emplace_back("the model's writing of the calibration text");
    return stand_in_windows(model, flags.job.windows, flags.job.calibration.seqlen);
  }
  return calibration_windows(notes_to(flags.common), model, device, flags.job.calibration, flags.job.windows,
                             false, compute, progress);
}

void print(const ShrinkFlags& flags, const Model& model, const TokenWindows& windows,
           const Estimate& estimate, Json what,
           const std::vector<std::pair<std::string, std::string>>& lines) {
  const double memory = peak_memory(), free = free_bytes(flags.job.out);
  clear_progress();
  if (flags.common.json) {
    Json document = {{"dry_run", true}};
    document.update(what);
    document["parameters"] = {{"dense", num_parameters(model.checkpoint())}, {"shrunk", estimate.parameters}};
    document["calibration"] = {{"source", flags.job.calibration.source()},
                               {"windows", windows.num_windows()},
                               {"seqlen", windows.seqlen}};
    document["estimate"] = {{"seconds", estimate.seconds},
                            {"trial_blocks", estimate.trial.blocks},
                            {"trial_seconds", estimate.trial.seconds},
                            {"memory_bytes", memory},
                            {"disk_bytes", estimate.disk},
                            {"free_disk_bytes", free}};
    document["not_estimated"] = estimate.not_estimated;
    print_json(document);
    return;
  }
  fmt::print("dry run     nothing is written; {} blocks, family {}\n", model.config().num_layers(),
             model.config().family);
  for (const auto& [name, text] : lines) fmt::print("{:<12}{}\n", name, text);
  fmt::print("parameters  {} of {}\n", estimate.parameters, num_parameters(model.checkpoint()));
  fmt::print("calibration {} windows of {} tokens from {}\n", windows.num_windows(), windows.seqlen,
             flags.job.calibration.source());
  fmt::print("time        about {:.3g} s ({} of {} blocks took {:.3g} s)\n", estimate.seconds,
             estimate.trial.blocks, model.config().num_layers(), estimate.trial.seconds);
  for (const std::string& more : estimate.not_estimated) fmt::print("{:<12}and {}\n", "", more);
  fmt::print("memory      {} at the most in these blocks; {} available\n", human_bytes(memory),
             human_bytes(read_memory().available));
  fmt::print("disk        about {} to write, {} free\n", human_bytes(estimate.disk), human_bytes(free));
}

void run_units(const ShrinkFlags& flags, const UnitsToRemove& units, const Model& model, Device& device) {
  const auto& [request, options, aligns_for_layers, measured] = units;
  const ModelConfig& config = model.config();
  std::optional<ShapeChoice> plan;
  if (!flags.job.plan.empty()) plan = read_shrink_plan(flags.job.plan, config);
  // Widths that differ are spread around the same sizes.
  const std::vector<ShrinkShape> shapes = plan ? std::vector{plan->shape} : shapes_for(config, request);
  const ShrinkShape& shape = shapes.front();
  Estimate estimate;
  const TokenWindows windows = windows_of(flags, model, device, options.compute, options.progress, estimate);
  if (flags.job.non_uniform) {
    estimate.not_estimated.emplace_back("the choice of each layer's widths, by measuring");
  } else if (!plan && (shapes.size() > 1 || shape.layers < config.num_layers())) {
    estimate.not_estimated.emplace_back("the choice of layers and of the mixture, by measured loss");
  }
  std::vector<std::int64_t> removed;  // of no plan any layers but the first
  for (std::int64_t layer = shape.layers; layer < config.num_layers(); ++layer) removed.push_back(layer);
  if (plan) removed = plan->removed_layers;
  ShrinkOptions trial = options;
  if (aligns_for_layers && !removed.empty()) trial.compensation = Compensation::kAligned;
  Nowhere nowhere;
  estimate.trial = time_first_blocks("shrink", options.progress, [&](const ProgressFn& progress) {
    trial.progress = progress;
    device.shrink(model, shape, removed, windows, trial, nowhere);
  });
  estimate.seconds = estimate.trial.of_all();
  const std::int64_t dense = num_parameters(model.checkpoint());
  estimate.parameters = dense - block_parameters(config, shape_of(config)) + block_parameters(config, shape);
  estimate.disk = static_cast<double>(weight_bytes(model)) * static_cast<double>(estimate.parameters) /
                  static_cast<double>(dense);

  Json list = Json::array();
  std::vector<std::pair<std::string, std::string>> lines;
  for (const ShrinkShape& one : shapes) {
    list.push_back({{"layers", one.layers},
                    {"key_heads", one.groups},
                    {"intermediate_size", one.channels},
                    {"ratio", ratio_of(config, one)}});
    lines.emplace_back(lines.empty() ? "shape" : "or", text_of(config, one));
  }
  if (shapes.size() > 1) lines.emplace_back("", "what follows is of the first of these shapes");
  const std::vector<Change> changes = changes_of(config, shape);
  for (const Change& change : changes) {
    lines.emplace_back("tensors", fmt::format("{} {}: [{}] to [{}]", change.count, change.name,
                                              fmt::join(change.from, ", "), fmt::join(change.to, ", ")));
  }
  if (shape.layers < config.num_layers())
    lines.emplace_back("layers", fmt::format("{} go, whole", config.num_layers() - shape.layers));
  print(flags, model, windows, estimate, {{"shapes", list}, {"tensors", to_json(changes)}}, lines);
}

void run_experts(const ShrinkFlags& flags, const RemoveExpertsOptions& options, const Model& model,
                 Device& device) {
  const ModelConfig& config = model.config();
  Estimate estimate;
  const TokenWindows windows = windows_of(flags, model, device, options.compute, options.progress, estimate);
  RemoveExpertsOptions trial = options;
  Nowhere nowhere;
  estimate.trial = time_first_blocks("shrink", options.progress, [&](const ProgressFn& progress) {
    trial.progress = progress;
    device.remove_experts(model, windows, trial, nowhere);
  });
  estimate.seconds = estimate.trial.of_all();
  const ExpertsConfig& experts = *experts_of(config);
  std::int64_t layers = 0;
  double expert_bytes = 0.0;
  std::int64_t expert_numbers = 0;
  for (const BlockConfig& block : config.blocks) {
    if (!block.experts) continue;
    ++layers;
    const ExpertTensors tensors(model.checkpoint(), *block.experts, config.hidden_size);
    for (const std::string& name : tensors.names()) {
      const TensorInfo& tensor = model.checkpoint().at(name);
      expert_bytes += static_cast<double>(tensor.num_bytes());
      expert_numbers += tensor.numel();
    }
  }
  const std::int64_t keep = options.keep.of(0);
  const double gone = static_cast<double>(experts.count - keep) / static_cast<double>(experts.count);
  estimate.disk = static_cast<double>(weight_bytes(model)) - gone * expert_bytes;
  estimate.parameters =
      num_parameters(model.checkpoint()) - expert_numbers / experts.count * (experts.count - keep);
  const Json what = {{"experts",
                      {{"dense", experts.count},
                       {"left", keep},
                       {"layers", layers},
                       {"non_uniform", flags.job.non_uniform}}}};
  std::vector<std::pair<std::string, std::string>> lines = {
      {"experts", fmt::format("{} of {} stay in {} of {} layers, chosen by {}{}", keep, experts.count,
                              flags.job.non_uniform ? "the mean" : "each", layers, options.scorer->name,
                              options.refit ? ", and refitted" : "")}};
  if (flags.job.non_uniform)
    lines.emplace_back("",
                       "how many each layer keeps is measured first, in a pass that the time does not count");
  print(flags, model, windows, estimate, what, lines);
}

}  // namespace

void dry_run(const ShrinkFlags& flags, const PreparedShrink& prepared, const Model& model, Device& device) {
  std::visit(
      Overloaded{[&](const UnitsToRemove& units) { run_units(flags, units, model, device); },
                 [&](const RemoveExpertsOptions& options) { run_experts(flags, options, model, device); },
                 [](const NarrowExpertsOptions&) { expect(false, "dry_run: refused by prepare()"); }},
      prepared);
}

}  // namespace swiftprune::cli
