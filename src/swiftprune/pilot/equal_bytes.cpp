#include "swiftprune/pilot/equal_bytes.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <set>

#include <fmt/ranges.h>

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

constexpr const char* kRounded = "rtn";
constexpr const char* kSolved = "best";

FewBits few_bits(const Model& model, int bits, const char* method) {
  return {&method_by_name(method), {.bits = bits, .group = default_group(model.config())}};
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
  const auto tell = [&](std::string_view stage, std::int64_t done, std::int64_t total) {
    if (forward.progress) forward.progress(fmt::format("{}: {}", what.name(), stage), done, total);
  };
  PruneOptions options;
  options.select = what.method->select;
  options.propagation = what.method->propagation;
  options.compute = forward.compute;
  options.progress = tell;
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

// Makes models in few bits, measures them beside the others, and takes their folders away at the end.
class EqualBytesRun {
 public:
  EqualBytesRun(const ComparisonInput& input, Device& device, const EqualBytesOptions& options)
      : input_(input), device_(device), options_(options) {
    tables_.table_bits = table_bits(*input.models.at(1));
    if (tables_.table_bits > 0) tables_.tables = tables_of(dense().config());
  }

  ComparisonReport run() {
    ComparisonInput first = input_;
    std::vector<FewBits> rounded;
    for (const int bits : kQuantBits) rounded.push_back(few_bits(dense(), bits, kRounded));
    first.first_few_bits = first.models.size();
    add(first, rounded, {});
    report_ = compare(first, device_);
    describe(report_, first, rounded);
    report_.equal_bytes = equal_bytes(report_);
    solve(options_.solve_all ? std::vector<int>(std::begin(kQuantBits), std::end(kQuantBits))
                             : bits_to_solve());
    return std::move(report_);
  }

 private:
  const Model& dense() const { return *input_.models.at(0); }

  void add(ComparisonInput& input, const std::vector<FewBits>& list, const TokenWindows& windows) {
    for (const FewBits& what : list) {
      folders_.push_back(std::make_unique<TemporaryFolder>(options_.work / what.folder()));
      write_few_bits(dense(), device_, what, tables_, windows, input_.forward, folders_.back()->path());
      models_.push_back(Model::open(folders_.back()->path()));
      input.models.push_back(models_.back().get());
      input.folders.push_back(what.name());
    }
  }

  // Names and commands of those in few bits, the last of the input's models; of all how fast they decode.
  void describe(ComparisonReport& report, const ComparisonInput& input,
                const std::vector<FewBits>& list) const {
    const std::size_t first = report.models.size() - list.size();
    const std::span<const std::int32_t> text = input.parts.front().windows.window(0);
    const auto speed = [&](const Model& fast) {
      return decode_speed(fast, device_, text, input.forward.compute);
    };
    for (std::size_t m = 0; m < report.models.size(); ++m) {
      ModelReport& model = report.models[m];
      if (m >= first) {
        const FewBits& what = list[m - first];
        ModelSummary& s = model.summary;
        s.name = what.name();
        s.folder.clear();
        s.method = what.method->name;
        s.steps.clear();
        s.prune_command =
            command_of(what, options_.model, tables_.table_bits, options_.calibration_arguments);
        report.commands.push_back(shell_command(s.prune_command));
      }
      if (input.forward.progress)
        input.forward.progress("decode", static_cast<std::int64_t>(m), std::ssize(report.models));
      if (m == 0 || model.summary.packed) {
        model.decode_tokens_per_second = speed(*input.models[m]);
      } else {
        measure_packed(*input.models[m], options_.work / "packed", speed, model);
      }
    }
  }

  // For each pruned model that no rounded one of its size beats: the most bits among these, or the fewest where none is
  // as small.
  std::vector<int> bits_to_solve() const {
    std::set<int, std::greater<>> widths;
    for (const EqualBytes& equal : report_.equal_bytes) {
      if (!equal.wins()) continue;
      const double limit = kSameBytes * static_cast<double>(equal.bytes);
      std::size_t m = input_.models.size();
      const auto rounded_bytes = [&] { return static_cast<double>(report_.models[m].stored_bytes()); };
      while (m + 1 < report_.models.size() && rounded_bytes() > limit) ++m;
      widths.insert(kQuantBits[m - input_.models.size()]);
    }
    return {widths.begin(), widths.end()};
  }

  // Each stands behind the rounded one of its bits.
  void solve(const std::vector<int>& widths) {
    if (widths.empty()) {
      report_.notes.emplace_back(
          "Dense models in few bits were rounded to the nearest and not solved: at its size each pruned "
          "model is worse "
          "than a rounded one already (--solve all solves them, too).");
      return;
    }
    const TokenWindows windows = options_.calibration();
    ComparisonInput second = input_;
    second.models.resize(1);
    second.folders.resize(1);
    second.masks.clear();
    second.refusals.clear();
    second.first_few_bits = 1;
    std::vector<FewBits> solved;
    for (const int bits : widths) solved.push_back(few_bits(dense(), bits, kSolved));
    add(second, solved, windows);
    ComparisonReport measured = compare(second, device_);
    describe(measured, second, solved);
    for (std::size_t s = 0; s < solved.size(); ++s) {
      const FewBits rounded = few_bits(dense(), widths[s], kRounded);
      const auto at = std::ranges::find(report_.models, rounded.name(),
                                        [](const ModelReport& model) { return model.summary.name; });
      report_.models.insert(at + 1, std::move(measured.models[s + 1]));
    }
    std::ranges::copy(measured.commands, std::back_inserter(report_.commands));
    report_.equal_bytes = equal_bytes(report_);
    std::vector<std::string> names;
    for (const FewBits& what : solved) names.push_back(fmt::format("int{}", what.grid.bits));
    report_.notes.push_back(fmt::format(
        "Of the dense models in few bits {} {} solved, on {} windows of {} tokens from {}; {}.",
        fmt::join(names, " and "), names.size() == 1 ? "was" : "were", windows.num_windows(), windows.seqlen,
        options_.calibration_source,
        solved.size() == std::size(kQuantBits)
            ? "all stand beside those that are rounded to the nearest"
            : "the others, rounded to the nearest, decide nothing (--solve all solves them, too)"));
  }

  const ComparisonInput& input_;
  Device& device_;
  const EqualBytesOptions& options_;
  PackOptions tables_;
  std::vector<std::unique_ptr<TemporaryFolder>> folders_;
  std::vector<std::unique_ptr<Model>> models_;
  ComparisonReport report_;
};

}  // namespace

ComparisonReport compare_at_equal_bytes(const ComparisonInput& input, Device& device,
                                        const EqualBytesOptions& options) {
  if (input.parts.empty()) bad_usage("--equal-bytes: found no text to measure on, expected --text");
  if (has_packed_tensors(input.models.at(0)->checkpoint())) {
    bad_input(
        "{}: found a packed model, expected the dense one for --equal-bytes; swiftprune unpack gives it back",
        input.folders[0]);
  }
  return EqualBytesRun(input, device, options).run();
}

}  // namespace swiftprune
