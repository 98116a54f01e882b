#include "swiftprune/pilot/equal_bytes.h"

#include <algorithm>
#include <memory>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pilot/trial.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/grid_output.h"

namespace swiftprune {
namespace {

// One way to hold the dense model in few bits.
struct FewBits {
  const Method* method = nullptr;
  QuantGrid grid;
  std::string name() const { return fmt::format("dense int{} {}", grid.bits, method->name); }
  std::string folder() const { return fmt::format("int{}-{}", grid.bits, method->name); }
};

std::vector<FewBits> few_bits_of(const Model& model) {
  std::vector<FewBits> list;
  for (const int bits : kQuantBits) {
    for (const char* method : {"rtn", "best"})
      list.push_back({&method_by_name(method), {.bits = bits, .group = default_group(model.config())}});
  }
  return list;
}

// Bits of the embedding in a packed model; 0: as it was.
int table_bits(const Model& model) {
  const ModelConfig& config = model.config();
  for (const std::string& table : tables_of(config)) {
    const auto packed = find_packed(model.checkpoint(), table, config.vocab_size, config.hidden_size);
    if (packed && is_grid(packed->kind())) return packed->shape().grid.bits;
  }
  return 0;
}

void write_few_bits(const Model& model, Device& device, const FewBits& what, const PackOptions& tables,
                    const TokenWindows& windows, const ForwardOptions& forward,
                    const std::filesystem::path& folder) {
  PlanDefaults defaults;
  defaults.sparsity = 0.0;
  defaults.score = what.method->score;
  defaults.refine = what.method->refine;
  defaults.grid = what.grid;
  const Plan plan = uniform_plan(model, defaults, {});
  PruneOptions options;
  options.select = what.method->select;
  options.propagation = what.method->propagation;
  options.compute = forward.compute;
  options.progress = forward.progress;
  device.check_plan(model, plan, options);
  CheckpointWriter stage(folder, stage_plan(model.checkpoint(), plan));
  Journal journal(stage.temporary_folder(), nlohmann::ordered_json::object(), [] {});
  GridOutput output(model.checkpoint(), plan, stage, journal, {});
  device.prune(model, plan, needs_calibration(plan) ? windows : TokenWindows{}, options, output);
  PackReport packing;
  const auto packed = output.write_packed(folder, tables, packing);
  packed->copy_other_files(model.checkpoint());
  packed->write_file(kPackedRecordFile, packed_record(packing, tables).dump(2) + "\n");
  packed->finish();
}

std::vector<std::string> command_of(const FewBits& what, const std::string& model, int table_bits,
                                    const std::vector<std::string>& calibration) {
  std::vector<std::string> arguments = {"swiftprune",
                                        "quantize",
                                        model,
                                        "--out",
                                        what.folder(),
                                        "--quantize",
                                        fmt::format("int{}", what.grid.bits),
                                        "--group",
                                        what.grid.group == 0 ? "row" : std::to_string(what.grid.group),
                                        "--method",
                                        std::string(what.method->name)};
  if (table_bits > 0)
    arguments.insert(arguments.end(), {"--quantize-embeddings", fmt::format("int{}", table_bits)});
  arguments.insert(arguments.end(), calibration.begin(), calibration.end());
  return arguments;
}

}  // namespace

ComparisonReport compare_at_equal_bytes(ComparisonInput input, Device& device,
                                        const EqualBytesOptions& options) {
  if (input.parts.empty()) bad_usage("--equal-bytes: found no text to measure on, expected --text");
  const Model& dense = *input.models.at(0);
  if (has_packed_tensors(dense.checkpoint())) {
    bad_input(
        "{}: found a packed model, expected the dense one for --equal-bytes; swiftprune unpack gives it back",
        input.folders[0]);
  }
  const std::size_t num_given = input.models.size();
  const int tables = table_bits(*input.models.at(1));
  PackOptions packing;
  packing.table_bits = tables;
  if (tables > 0) packing.tables = tables_of(dense.config());

  const std::vector<FewBits> list = few_bits_of(dense);
  std::vector<std::unique_ptr<TemporaryFolder>> folders;
  std::vector<std::unique_ptr<Model>> models;
  for (const FewBits& what : list) {
    folders.push_back(std::make_unique<TemporaryFolder>(options.work / what.folder()));
    write_few_bits(dense, device, what, packing, options.calibration, input.forward, folders.back()->path());
    models.push_back(Model::open(folders.back()->path()));
    input.models.push_back(models.back().get());
    input.folders.push_back(what.name());
  }
  input.first_few_bits = num_given;
  ComparisonReport report = compare(input, device);

  for (std::size_t m = 0; m < report.models.size(); ++m) {
    ModelReport& model = report.models[m];
    if (m >= num_given) {
      const FewBits& what = list[m - num_given];
      ModelSummary& s = model.summary;
      s.name = what.name();
      s.folder.clear();
      s.method = what.method->name;
      s.steps.clear();
      s.prune_command = command_of(what, options.model, tables, options.calibration_arguments);
      report.commands.push_back(shell_command(s.prune_command));
    }
    const std::span<const std::int32_t> text = input.parts.front().windows.window(0);
    const auto speed = [&](const Model& fast) {
      return decode_speed(fast, device, text, input.forward.compute);
    };
    if (m == 0 || model.summary.packed) {
      model.decode_tokens_per_second = speed(*input.models[m]);
    } else {
      measure_packed(*input.models[m], options.work / "packed", speed, model);
    }
  }
  report.equal_bytes = equal_bytes(report);
  return report;
}

}  // namespace swiftprune
