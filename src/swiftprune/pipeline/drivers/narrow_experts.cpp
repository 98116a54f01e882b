#include "swiftprune/pipeline/drivers/narrow_experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/drivers/expert_layer.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune {
namespace {

double squares(std::span<const float> row) {
  double sum = 0.0;
  for (const float value : row) sum += double{value} * double{value};
  return sum;
}

// [cols]
std::vector<double> column_squares(ConstMatrixView m) {
  std::vector<double> sums(at(m.cols), 0.0);
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) sums[at(c)] += double{m.at(r, c)} * double{m.at(r, c)};
  }
  return sums;
}

// The channels with the highest scores, rising; ties to the lower one.
std::vector<std::int64_t> highest(const std::vector<double>& scores, std::int64_t count) {
  std::vector<std::int64_t> channels(scores.size());
  std::iota(channels.begin(), channels.end(), 0);
  std::stable_sort(channels.begin(), channels.end(),
                   [&](std::int64_t a, std::int64_t b) { return scores[at(a)] > scores[at(b)]; });
  channels.resize(at(count));
  std::sort(channels.begin(), channels.end());
  return channels;
}

class Narrower {
 public:
  Narrower(const ExpertShopMaker& make_shop, const Model& model, const TokenWindows& windows,
           const NarrowExpertsOptions& options, NarrowedExpertsOutput& output)
      : model_(model), options_(options), output_(output), backend_(make_cpu_backend()) {
    shop_options_.compute = options.compute;
    shop_options_.damping = options.damping;
    shop_options_.ranks = options.ranks;
    shop_ = make_shared_shop(make_shop, {model, windows, shop_options_, result_.seconds});
  }

  NarrowExpertsResult run() {
    {
      const Stopwatch total(result_.seconds.total);
      for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
        check_interrupt();
        shop_->start(layer);
        if (const auto& experts = model_.config().blocks[at(layer)].experts) narrow(layer, *experts);
        options_.progress("shrink", layer + 1, model_.config().num_layers());
      }
    }
    return std::move(result_);
  }

 private:
  void narrow(std::int64_t layer, const ExpertsConfig& experts) {
    const Router router(model_.checkpoint(), experts, model_.config().hidden_size);
    const ExpertTensors tensors(model_.checkpoint(), experts, model_.config().hidden_size);
    std::vector<std::int64_t> all(at(experts.count));
    std::iota(all.begin(), all.end(), 0);
    ExpertLayer work(*shop_, router);
    const RoutedExperts routed = work.route(std::move(all));
    NarrowedLayer narrowed;
    narrowed.layer = layer;
    {
      const Stopwatch watch(result_.seconds.forward);
      narrowed.tokens = work.observe(routed, layer).tokens;
    }
    const Stopwatch watch(result_.seconds.solve);
    shop_->start_narrow();
    for (std::int64_t e = 0; e < experts.count; ++e) {
      check_interrupt();
      narrow_expert(tensors, routed, e, narrowed);
      tensors.release(e);
    }
    narrowed.change = work.relative_error();
    shop_->finish_layer();
    result_.layers.push_back(std::move(narrowed));
  }

  void narrow_expert(const ExpertTensors& tensors, const RoutedExperts& routed, std::int64_t expert,
                     NarrowedLayer& narrowed) {
    const auto part = [&](ExpertPart which) { return tensors.load(expert, which, WeightUse::kFloat); };
    const BlockLinear down = part(ExpertPart::kDown);
    std::vector<double> scores = column_squares(down.weight.view());
    const bool few = narrowed.tokens[at(expert)] < kMinNarrowTokens;
    Matrix gram;
    if (few) {
      narrowed.by_weights.push_back(expert);
      for (const ExpertPart which : inner_parts_of(tensors.experts())) {
        const BlockLinear linear = part(which);
        for (std::size_t c = 0; c < scores.size(); ++c)
          scores[c] *= squares(linear.weight.view().row_span(static_cast<std::int64_t>(c)));
      }
    } else {
      gram = shop_->inner_moments(routed, at(expert));
      for (std::size_t c = 0; c < scores.size(); ++c) {
        const auto channel = static_cast<std::int64_t>(c);
        scores[c] *= double{gram.at(channel, channel)};
      }
    }
    const std::vector<std::int64_t> kept = highest(scores, options_.width);
    Matrix now = take_columns(down.weight.view(), kept);
    if (options_.refit && !few) {
      LayerStats stats;
      stats.num_tokens = narrowed.tokens[at(expert)];
      stats.gram = &gram;
      now = refit_columns(down.weight.view(), stats, kept, {options_.damping, 0.0, 0.0}, *backend_,
                          down.tensors.name + ".weight");
    }
    round_to(down.dtype, now.values());
    shop_->add_narrow(routed, at(expert), kept, now.view());
    const Stopwatch watch(result_.seconds.write);
    output_.write(narrowed.layer, expert, kept, now.view());
  }

  const Model& model_;
  const NarrowExpertsOptions& options_;
  NarrowedExpertsOutput& output_;
  NarrowExpertsResult result_;
  RemoveExpertsOptions shop_options_;  // what the shop reads of them
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<ExpertShop> shop_;
};

bool ties_shared_width(const Model& model) {
  const nlohmann::ordered_json config = read_config_file(model.checkpoint());
  const auto says = [](const nlohmann::ordered_json& c) {
    return c.contains("n_shared_experts") && !c.contains("moe_shared_expert_intermediate_size");
  };
  return says(config) || (config.contains("text_config") && says(config["text_config"]));
}

}  // namespace

void check_narrowable(const Model& model) {
  const ExpertsConfig* experts = experts_of(model.config());
  expect(experts != nullptr, "check_narrowable: a model with experts");
  const std::string folder = model.checkpoint().folder().string();
  if (has_packed_tensors(model.checkpoint()))
    bad_input("{}: a packed model cannot be shrunk; make it dense first: swiftprune unpack", folder);
  const ExpertTensors tensors(model.checkpoint(), *experts, model.config().hidden_size);
  if (tensors.form() == ExpertForm::kMxfp4) {
    bad_input(
        "{}: --units mlp: found experts in MXFP4, whose blocks of channels cannot be cut; expand them first "
        "(swiftprune "
        "unpack)",
        folder);
  }
  for (const BlockConfig& block : model.config().blocks) {
    if (block.experts && block.experts->width != experts->width)
      bad_usage("--units mlp: found experts of {} and of {} channels, expected one width", experts->width,
                block.experts->width);
    // n_shared_experts times the experts' width, in one linear.
    if (!block.experts || block.up.empty() || !ties_shared_width(model)) continue;
    bad_usage(
        "--units mlp: model of the family {}: found shared experts whose width follows {} of config.json, "
        "expected experts "
        "alone or shared experts with a width of their own; --units experts takes whole experts out",
        model.config().family, block.experts->width_field);
  }
}

std::int64_t width_for_ratio(const Model& model, double ratio, std::int64_t align) {
  if (!(ratio > 0.0 && ratio < 1.0))
    bad_usage("--ratio: found {}, expected more than 0 and less than 1", ratio);
  const std::int64_t width = experts_of(model.config())->width;
  const std::int64_t step = std::min(align, width);
  const std::int64_t wanted =
      std::llround((1.0 - ratio) * static_cast<double>(width) / static_cast<double>(step)) * step;
  if (wanted < 1 || wanted >= width) {
    bad_usage(
        "--ratio: found {}, which leaves {} of {} channels at multiples of {}; change --ratio or --align",
        ratio, wanted, width, step);
  }
  return wanted;
}

NarrowExpertsResult narrow_experts(const ExpertShopMaker& make_shop, const Model& model,
                                   const TokenWindows& windows, const NarrowExpertsOptions& options,
                                   NarrowedExpertsOutput& output) {
  check_narrowable(model);
  expect(windows.num_windows() > 0, "narrow_experts: text");
  expect(options.width >= 1 && options.width < experts_of(model.config())->width,
         "narrow_experts: fewer channels");
  return Narrower(make_shop, model, windows, options, output).run();
}

}  // namespace swiftprune
