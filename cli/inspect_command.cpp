// swiftprune inspect: what is in a model folder.
#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "command.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/report/inspect.h"

namespace swiftprune::cli {
namespace {

struct InspectArguments {
  std::string model;
  bool tensors = false;
  CommonOptions common;
};

constexpr std::size_t kNameWidth = 48;  // rows stay within 100 columns

std::string human_count(double count) {
  const char* unit = "";
  for (const char* next : {"k", "M", "B"}) {
    if (count < 1000.0) break;
    count /= 1000.0;
    unit = next;
  }
  return *unit == '\0' ? fmt::format("{:.0f}", count) : fmt::format("{:.1f} {}", count, unit);
}

// The end of a name says more than its start.
std::string shorten(const std::string& name) {
  return name.size() <= kNameWidth ? name : "..." + name.substr(name.size() - (kNameWidth - 3));
}

void print_row(const std::string& name, const std::string& count, std::string_view dtype,
               const std::vector<std::int64_t>& shape, const std::string& sparsity,
               const std::string& pattern) {
  fmt::print("{:<{}} {:>4} {:<5}{:>15} {:>10}  {}\n", shorten(name), kNameWidth, count, dtype,
             fmt::format("[{}]", fmt::join(shape, ", ")), sparsity, pattern);
}

std::string percent(double low, double high) {
  const std::string from = fmt::format("{:.1f}", 100.0 * low), to = fmt::format("{:.1f}", 100.0 * high);
  return from == to ? from + " %" : from + "-" + to + " %";
}

void print_tensors(const ModelInspection& inspection, bool each) {
  fmt::print("\n{:<{}} {:>4} {:<5}{:>15} {:>10}  {}\n", each ? "tensor" : "tensors of all blocks", kNameWidth,
             each ? "" : "n", "dtype", "shape", "zeros", "pattern");
  if (each) {
    for (const TensorInspection& tensor : inspection.tensors) {
      const double sparsity = tensor.zeros ? tensor.zeros->sparsity() : 0.0;
      print_row(tensor.name, "", name_of(tensor.dtype), tensor.shape,
                tensor.zeros ? percent(sparsity, sparsity) : "", tensor.pattern);
    }
    return;
  }
  for (const TensorGroup& group : group_tensors(inspection)) {
    print_row(group.name, std::to_string(group.count), name_of(group.dtype), group.shape,
              percent(group.min_sparsity, group.max_sparsity), group.pattern);
  }
}

void print_summary(const ModelInspection& inspection) {
  std::string dtypes;
  for (const auto& [dtype, bytes] : inspection.bytes_of_dtype) {
    dtypes +=
        fmt::format("{}{} {}", dtypes.empty() ? "" : ", ", human_bytes(static_cast<double>(bytes)), dtype);
  }
  fmt::print("model         {}\n", inspection.folder.string());
  const std::string& architecture =
      inspection.architecture.empty() ? inspection.model_type : inspection.architecture;
  fmt::print(
      "architecture  {}{}\n", has_control_characters(architecture) ? json_quoted(architecture) : architecture,
      inspection.config ? fmt::format(" (family {})", inspection.config->family) : " (cannot be used)");
  if (!inspection.problem.empty()) fmt::print("problem       {}\n", inspection.problem);
  fmt::print("size          {} parameters in {} tensors and {} file{}: {}\n",
             human_count(static_cast<double>(inspection.num_parameters)), inspection.tensors.size(),
             inspection.bytes_of_file.size(), inspection.bytes_of_file.size() == 1 ? "" : "s", dtypes);
  if (const auto& config = inspection.config) {
    fmt::print("blocks        {}, hidden size {}, MLP {}, {} heads of {}, {} for keys and values\n",
               config->num_layers(), config->hidden_size, config->intermediate_size, config->num_heads,
               config->head_size, config->num_kv_heads);
    if (const ExpertsConfig* experts = experts_of(*config)) {
      std::int64_t least = experts->count, most = experts->count;
      for (const BlockConfig& block : config->blocks) {
        if (!block.experts) continue;
        least = std::min(least, block.experts->count);
        most = std::max(most, block.experts->count);
      }
      fmt::print("experts       {} of {} channels, {} a token; every linear of theirs is listed below\n",
                 least == most ? std::to_string(most) : fmt::format("{} to {} a layer", least, most),
                 experts->width, experts->router.top_k);
    }
    fmt::print("vocabulary    {}, {} positions, head {}\n", config->vocab_size, config->max_positions,
               inspection.is_tied ? "tied to the embedding" : "of its own");
  }
  const LinearTotals& linears = inspection.linears;
  std::string patterns;
  for (const auto& [pattern, count] : linears.patterns) {
    patterns += fmt::format("{}{} {}", patterns.empty() ? "" : ", ", count, pattern);
  }
  fmt::print("linears       {} in the blocks, {} parameters, {:.2f} % zero: {}\n", linears.count,
             human_count(static_cast<double>(linears.numel)), 100.0 * linears.sparsity(),
             patterns.empty() ? "none" : patterns);
  for (const LayerRouting& layer : inspection.routing) {
    const auto [fewest, most] = std::minmax_element(layer.tokens.begin(), layer.tokens.end());
    fmt::print("routing       layer {}: {} to {} tokens an expert, {} without any, entropy {:.3f}\n",
               layer.layer, *fewest, *most, std::count(layer.tokens.begin(), layer.tokens.end(), 0),
               layer.entropy);
  }
}

void tell_next(const CommonOptions& common, const ModelInspection& inspection) {
  const std::string folder = inspection.folder.string();
  if (!inspection.problem.empty()) return;
  if (!inspection.has_record) {
    print_next(common, {{"swiftprune", "prune", folder, "--out", "PRUNED"}});
  } else {
    print_next(common,
               {{"swiftprune", "verify", "DENSE", folder}, {"swiftprune", "eval", folder, "--text", "FILE"}});
  }
}

void run(const InspectArguments& arguments) {
  const RunScope job = apply(arguments.common);
  ModelInspection inspection = inspect_model(arguments.model, job.context().progress);
  inspection.folder = as_given(arguments.common, arguments.model);
  print_notes(arguments.common, inspection.notes);
  if (arguments.common.json) {
    print_json(to_json(inspection, arguments.tensors));
  } else {
    print_summary(inspection);
    print_tensors(inspection, arguments.tensors);
  }
  tell_next(arguments.common, inspection);
}

}  // namespace

void declare_inspect(CLI::App& program) {
  auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command =
      program.add_subcommand("inspect", "Show a model's architecture, sizes, dtypes, sparsity and patterns");
  add_model_argument(*command, arguments->common, "MODEL", arguments->model, kModelHelp)->required();
  command->add_flag("--tensors", arguments->tensors, "Every tensor, not one line for all blocks");
  add_common_options(*command, arguments->common);
  command->footer(
      "A pattern is named when the zeros keep to it and random ones would not: 2:4 keeps 2 of every 4\n"
      "consecutive inputs. Examples:\n"
      "  swiftprune inspect ./SmolLM2-24\n"
      "  swiftprune inspect ./SmolLM2-24 --tensors --json");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace swiftprune::cli
