// What `swiftprune shrink` prints when it is done.
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "shrink_flags.h"
#include "swiftprune/core/overloaded.h"

namespace swiftprune::cli {
namespace {

using Json = nlohmann::ordered_json;

std::int64_t integer(const Json& record, const char* name) { return record.at(name).get<std::int64_t>(); }

void print_parameters(const Json& record) {
  const Json& parameters = record.at("parameters");
  fmt::print("parameters  {} of {}\n", integer(parameters, "shrunk"), integer(parameters, "dense"));
}

void print_time(const Json& record, double seconds) {
  const Json& s = record.at("seconds");
  fmt::print("time        {:.1f} s: forward {:.1f}, solve {:.1f}, read and write {:.1f}\n", seconds,
             s.at("forward").get<double>(), s.at("solve").get<double>(),
             s.at("load").get<double>() + s.at("write").get<double>());
}

void print_units(const Json& record) {
  const Json& shape = record.at("shape");
  fmt::print(
      "size        {:.2f} % of the blocks' parameters removed: {} layers, {} heads ({} key heads), MLP {}\n",
      100.0 * record.at("ratio").get<double>(), integer(shape, "num_hidden_layers"),
      integer(shape, "num_attention_heads"), integer(shape, "num_key_value_heads"),
      integer(shape, "intermediate_size"));
  print_parameters(record);
  for (const auto& [key, what] : {std::pair{"layer_intermediate_size", "widths      "},
                                  std::pair{"layer_num_key_value_heads", "key heads   "}}) {
    if (shape.contains(key)) fmt::print("{}{}\n", what, shape.at(key).dump());
  }
  if (const Json& layers = record.at("removed_layers"); !layers.empty())
    fmt::print("layers gone {}\n", layers.dump());
}

void print_experts(const RemoveExpertsResult& result, const Json& record) {
  const Json& experts = record.at("experts");
  std::int64_t left = 0;
  for (const ReducedLayer& layer : result.layers) left += std::ssize(layer.kept);
  fmt::print("experts     {:.4g} of {} in {} of {} layers, {} a token, by {}\n",
             static_cast<double>(left) / static_cast<double>(result.layers.size()), integer(experts, "dense"),
             experts.at("left").is_array() ? "the mean" : "each", result.layers.size(),
             integer(experts, "a_token"), record.at("score").get<std::string>());
  print_parameters(record);
  fmt::print("{:>5}  {:>4}  {:>7}  {:>7}  {:>9}  {}\n", "layer", "left", "entropy", "change", "refitted",
             "experts that went");
  for (const ReducedLayer& layer : result.layers) {
    fmt::print("{:>5}  {:>4}  {:>7.3f}  {:>7.4f}  {:>9.4f}  {}\n", layer.evidence.layer, layer.kept.size(),
               layer.evidence.routing_entropy(), layer.change, layer.change_refitted,
               fmt::join(layer.removed(), " "));
  }
  for (const ReducedLayer& layer : result.layers) {
    if (!layer.never.empty())
      fmt::print("never used  layer {}: {}\n", layer.evidence.layer, fmt::join(layer.never, " "));
    if (!layer.super.empty())
      fmt::print("super       layer {}: {}\n", layer.evidence.layer, fmt::join(layer.super, " "));
  }
}

void print_channels(const NarrowExpertsResult& result, const Json& record) {
  const Json& channels = record.at("channels");
  fmt::print("channels    {} of {} in each expert of {} layers\n", integer(channels, "left"),
             integer(channels, "dense"), result.layers.size());
  print_parameters(record);
  fmt::print("{:>5}  {:>7}  {}\n", "layer", "change", "experts with too few tokens, ranked by their weights");
  for (const NarrowedLayer& layer : result.layers)
    fmt::print("{:>5}  {:>7.4f}  {}\n", layer.layer, layer.change, fmt::join(layer.by_weights, " "));
}

}  // namespace

void print_summary(const ShrinkFlags& flags, const ShrinkReport& report, double seconds) {
  const Json& record = report.record;
  const std::string& out = flags.job.out;
  fmt::print("shrunk      {}\n", out);
  std::visit(Overloaded{[&](const ShrunkUnits&) { print_units(record); },
                        [&](const RemoveExpertsResult& result) { print_experts(result, record); },
                        [&](const NarrowExpertsResult& result) { print_channels(result, record); }},
             report.result);
  print_time(record, seconds);
  if (record.value("left_out_prediction_layers", false))
    print_note(flags.common, "layers that predict further tokens were left out: they would need all experts");
  if (!std::holds_alternative<ShrunkUnits>(report.result))
    return print_next(flags.common, {{"swiftprune", "compare", flags.job.model, out, "--text", "FILE"}});
  std::vector<std::vector<std::string>> next = {{"swiftprune", "eval", out, "--text", "FILE"}};
  if (!flags.job.non_uniform) next.push_back({"swiftprune", "export", out, "--gguf", "FILE.gguf"});
  print_next(flags.common, next);
}

}  // namespace swiftprune::cli
