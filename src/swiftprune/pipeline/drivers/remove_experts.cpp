#include "swiftprune/pipeline/drivers/remove_experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/timeline.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/model/layer_sizes.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/drivers/expert_layer.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

class Remover {
 public:
  Remover(const ExpertShopMaker& make_shop, const Model& model, const TokenWindows& windows,
          const RemoveExpertsOptions& options, ReducedExpertsOutput& output)
      : model_(model), options_(options), output_(output) {
    shop_ = make_shared_shop(make_shop, {model, windows, options, result_.seconds});
  }

  RemoveExpertsResult run() {
    {
      const Stopwatch total(result_.seconds.total);
      for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
        check_interrupt();
        shop_->start(layer);
        if (const auto& experts = model_.config().blocks[at(layer)].experts) {
          result_.layers.size() < options_.finished.size() ? pass_finished(layer, *experts)
                                                           : reduce(layer, *experts);
        }
        options_.progress("shrink", layer + 1, model_.config().num_layers());
      }
    }
    return std::move(result_);
  }

  std::vector<ExpertEvidence> observe() {
    std::vector<ExpertEvidence> found;
    for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
      check_interrupt();
      shop_->start(layer);
      if (const auto& experts = model_.config().blocks[at(layer)].experts) {
        const Router router(model_.checkpoint(), *experts, model_.config().hidden_size);
        ExpertLayer work(*shop_, router);
        const RoutedExperts all = work.route(all_of(*experts));
        found.push_back(work.observe(all, layer));
        if (options_.scorer->needs_changes) found.back().changes = work.changes(all);
        shop_->sum(all);
        shop_->finish_layer();
      }
      options_.progress("observe", layer + 1, model_.config().num_layers());
    }
    return found;
  }

 private:
  static std::vector<std::int64_t> all_of(const ExpertsConfig& experts) {
    std::vector<std::int64_t> all(at(experts.count));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  void reduce(std::int64_t layer, const ExpertsConfig& experts) {
    const Router router(model_.checkpoint(), experts, model_.config().hidden_size);
    std::vector<std::int64_t> all = all_of(experts);
    ReducedLayer reduced;
    ExpertLayer work(*shop_, router);
    {
      const Stopwatch watch(result_.seconds.forward);
      const TimelineStage stage("forward", layer);
      reduced.evidence = work.observe(work.route(all), layer);
    }
    {
      const Stopwatch watch(result_.seconds.solve);
      const TimelineStage stage("refine", layer);
      choose(work, std::move(all), reduced);
      const RoutedExperts routed = work.route(reduced.kept);
      shop_->sum(routed);
      reduced.change = reduced.change_refitted = work.relative_error();
      refit_and_write(work, experts, routed, reduced);
      shop_->finish_layer();
    }
    output_.finish_layer(reduced);
    result_.layers.push_back(std::move(reduced));
  }

  // Of a layer that an earlier run finished: the hidden states become what they became then.
  void pass_finished(std::int64_t layer, const ExpertsConfig& experts) {
    const Stopwatch watch(result_.seconds.forward);
    const ReducedLayer& finished = options_.finished[result_.layers.size()];
    expect(finished.evidence.layer == layer, "finished layers: those with experts, from the first on");
    const Router router(model_.checkpoint(), experts, model_.config().hidden_size);
    const ExpertLayer work(*shop_, router);
    const RoutedExperts routed = work.route(finished.kept);
    shop_->sum(routed);
    for (std::size_t j = 0; j < finished.kept.size(); ++j) {
      if (!finished.refitted[j]) continue;
      check_interrupt();
      Matrix down = options_.ranks->is_first() ? output_.read_down(layer, static_cast<std::int64_t>(j))
                                               : Matrix(model_.config().hidden_size, experts.width);
      options_.ranks->broadcast(0, std::as_writable_bytes(down.values()));
      shop_->use_down(routed, j, std::as_const(down).view());
    }
    if (std::ranges::count(finished.biased, true) > 0) {
      const ExpertTensors tensors(model_.checkpoint(), experts, model_.config().hidden_size);
      Matrix changes = Matrix::zeros(std::ssize(finished.kept), model_.config().hidden_size);
      for (std::size_t j = 0; j < finished.kept.size(); ++j) {
        if (!finished.biased[j]) continue;
        std::vector<float> bias(at(model_.config().hidden_size));
        if (options_.ranks->is_first()) bias = output_.read_bias(layer, static_cast<std::int64_t>(j));
        options_.ranks->broadcast(0, std::as_writable_bytes(std::span(bias)));
        set_change(changes, j, bias, tensors.load_bias(finished.kept[j], ExpertPart::kDown));
      }
      shop_->add_biases(routed, std::as_const(changes).view());
    }
    shop_->finish_layer();
    result_.layers.push_back(finished);
  }

  void choose(ExpertLayer& work, std::vector<std::int64_t> members, ReducedLayer& reduced) {
    ExpertEvidence& evidence = reduced.evidence;
    reduced.super = super_experts(evidence);
    for (std::int64_t j = 0; j < evidence.num_experts(); ++j) {
      if (evidence.tokens[at(j)] == 0) reduced.never.push_back(j);
    }
    const std::int64_t groups = model_.config().blocks[at(evidence.layer)].experts->router.num_groups;
    const std::int64_t keep = options_.keep.of(result_.layers.size());
    std::vector<std::int64_t> always = options_.keep_super ? reduced.super : std::vector<std::int64_t>();
    if (std::ssize(always) > keep) always.resize(at(keep));
    if (!options_.scorer->needs_changes) {
      reduced.kept = best_experts(options_.scorer->score(evidence, options_.seed), keep, groups, always);
      return;
    }
    const auto total = std::ssize(members) - keep;
    for (std::int64_t round = 1; round <= options_.rounds; ++round) {
      // As many of each group.
      const std::int64_t gone = total / groups * round / options_.rounds * groups;
      const std::int64_t left = evidence.num_experts() - (round == options_.rounds ? total : gone);
      if (left == std::ssize(members)) continue;
      const std::vector<double> changes = work.changes(work.route(members));
      if (evidence.changes.empty()) evidence.changes = changes;
      std::vector<std::int64_t> protected_members;
      for (std::size_t i = 0; i < members.size(); ++i) {
        if (std::find(always.begin(), always.end(), members[i]) != always.end())
          protected_members.push_back(static_cast<std::int64_t>(i));
      }
      std::vector<std::int64_t> next;
      for (const std::int64_t i : best_experts(changes, left, groups, protected_members))
        next.push_back(members[at(i)]);
      members = std::move(next);
    }
    reduced.kept = std::move(members);
  }

  void refit_and_write(ExpertLayer& work, const ExpertsConfig& experts, const RoutedExperts& routed,
                       ReducedLayer& reduced) {
    reduced.refitted.assign(reduced.kept.size(), false);
    reduced.biased = reduced.refitted;
    if (reduced.kept.size() < at(experts.count)) {
      for (std::size_t j = 0; j < reduced.kept.size() && (options_.refit || options_.bias); ++j) {
        if (std::ssize(routed.tokens[j].rows) < kMinRefitTokens) {
          reduced.not_refitted.push_back(reduced.kept[j]);
        } else {
          reduced.refitted[j] = options_.refit;
          reduced.biased[j] = options_.bias;
        }
      }
      if (options_.refit) refit(routed, reduced);
      if (options_.bias) fit_biases(work, experts, routed, reduced);
      if (options_.refit || options_.bias) reduced.change_refitted = work.relative_error();
    }
    const Stopwatch watch(result_.seconds.write);
    const TimelineStage stage("write", reduced.evidence.layer);
    output_.keep(reduced);
  }

  void refit(const RoutedExperts& routed, const ReducedLayer& reduced) {
    for (std::size_t j = 0; j < reduced.kept.size(); ++j) {
      if (!reduced.refitted[j]) continue;
      check_interrupt();
      const Matrix down = shop_->refit(routed, j);
      const Stopwatch watch(result_.seconds.write);
      output_.write_down(reduced.evidence.layer, static_cast<std::int64_t>(j), down.view());
    }
  }

  void fit_biases(ExpertLayer& work, const ExpertsConfig& experts, const RoutedExperts& routed,
                  const ReducedLayer& reduced) {
    const ExpertTensors tensors(model_.checkpoint(), experts, model_.config().hidden_size);
    Matrix changes = work.bias_changes(routed, reduced.biased, options_.damping);
    for (std::size_t j = 0; j < reduced.kept.size(); ++j) {
      if (!reduced.biased[j]) continue;
      const std::vector<float> before = tensors.load_bias(reduced.kept[j], ExpertPart::kDown);
      std::vector<float> bias = before;
      for (std::size_t c = 0; c < bias.size(); ++c)
        bias[c] += changes.at(static_cast<std::int64_t>(j), static_cast<std::int64_t>(c));
      round_to(model_.checkpoint().at(tensors.bias_name(reduced.kept[j], ExpertPart::kDown)).dtype, bias);
      set_change(changes, j, bias, before);
      const Stopwatch watch(result_.seconds.write);
      output_.write_bias(reduced.evidence.layer, static_cast<std::int64_t>(j), bias);
    }
    shop_->add_biases(routed, std::as_const(changes).view());
  }

  // The row of a member: what is to be added to its outputs.
  static void set_change(Matrix& changes, std::size_t member, std::span<const float> after,
                         std::span<const float> before) {
    const std::span<float> row = changes.view().row_span(static_cast<std::int64_t>(member));
    for (std::size_t c = 0; c < row.size(); ++c) row[c] = after[c] - before[c];
  }

  const Model& model_;
  const RemoveExpertsOptions& options_;
  ReducedExpertsOutput& output_;
  RemoveExpertsResult result_;
  std::unique_ptr<ExpertShop> shop_;
};

// Some layers may keep all of theirs, where numbers differ.
void check_counts(const ModelConfig& model, const ExpertCounts& keep) {
  std::size_t place = 0;
  for (const BlockConfig& block : model.blocks) {
    if (!block.experts) continue;
    const std::int64_t count = keep.of(place++);
    expect(count >= 1 && count <= block.experts->count && !router_problem(block.experts->router, count),
           "remove_experts: as many as the router needs");
  }
  expect(!keep.differ() || place == keep.of_layers().size(),
         "remove_experts: a number for each layer with experts");
}

const ExpertsConfig& any_experts(const ModelConfig& model) {
  const ExpertsConfig* experts = experts_of(model);
  if (experts == nullptr) {
    bad_usage("--units: found experts, which a model of the family {} has none of", model.family);
  }
  return *experts;
}

}  // namespace

std::vector<std::int64_t> ReducedLayer::removed() const {
  std::vector<std::int64_t> gone;
  for (std::int64_t e = 0; e < evidence.num_experts(); ++e) {
    if (!std::binary_search(kept.begin(), kept.end(), e)) gone.push_back(e);
  }
  return gone;
}

std::int64_t experts_for_ratio(const ModelConfig& model, double ratio) {
  if (!(ratio > 0.0 && ratio < 1.0))
    bad_usage("--ratio: found {}, expected more than 0 and less than 1", ratio);
  const ExpertsConfig& experts = any_experts(model);
  const std::int64_t groups = experts.router.num_groups;
  const double a_group = static_cast<double>(experts.count / groups);
  return std::llround((1.0 - ratio) * a_group) * groups;
}

void check_experts_left(const ModelConfig& model, std::int64_t keep, std::string_view flag) {
  const ExpertsConfig& experts = any_experts(model);
  if (keep < 1 || keep >= experts.count) {
    bad_usage("{}: found a request that leaves {} of {} experts, expected one that removes some", flag, keep,
              experts.count);
  }
  if (const auto problem = router_problem(experts.router, keep)) {
    bad_usage("{}: found a request that leaves {} of {} experts, for a router with {}", flag, keep,
              experts.count, *problem);
  }
}

void check_reducible(const Model& model) {
  any_experts(model.config());
  if (model.config().has_layer_sizes) {
    bad_input(
        "{}: config.json: field '{}': experts of a model whose layers differ in size cannot be taken out "
        "again; "
        "shrink the dense one",
        model.checkpoint().folder().string(), kLayerSizesField);
  }
  if (!has_packed_tensors(model.checkpoint())) return;
  bad_input("{}: a packed model cannot be shrunk; make it dense first: swiftprune unpack",
            model.checkpoint().folder().string());
}

bool can_refit_experts(const Model& model) {
  const ExpertsConfig& experts = any_experts(model.config());
  return ExpertTensors(model.checkpoint(), experts, model.config().hidden_size).form() != ExpertForm::kMxfp4;
}

std::vector<ExpertEvidence> observe_experts(const ExpertShopMaker& make_shop, const Model& model,
                                            const TokenWindows& windows,
                                            const RemoveExpertsOptions& options) {
  check_reducible(model);
  expect(windows.num_windows() > 0 && options.scorer != nullptr, "observe_experts: text, a score");
  class Nowhere final : public ReducedExpertsOutput {
    void write_down(std::int64_t, std::int64_t, ConstMatrixView) override {}
    void write_bias(std::int64_t, std::int64_t, std::span<const float>) override {}
    void keep(const ReducedLayer&) override {}
    void finish_layer(const ReducedLayer&) override {}
    Matrix read_down(std::int64_t, std::int64_t) override { return {}; }
    std::vector<float> read_bias(std::int64_t, std::int64_t) override { return {}; }
  } nowhere;
  return Remover(make_shop, model, windows, options, nowhere).observe();
}

RemoveExpertsResult remove_experts(const ExpertShopMaker& make_shop, const Model& model,
                                   const TokenWindows& windows, const RemoveExpertsOptions& options,
                                   ReducedExpertsOutput& output) {
  check_reducible(model);
  check_counts(model.config(), options.keep);
  expect(windows.num_windows() > 0 && options.scorer != nullptr && options.rounds > 0,
         "remove_experts: text, a score, rounds");
  expect(!options.bias || any_experts(model.config()).bias, "remove_experts: experts with biases");
  return Remover(make_shop, model, windows, options, output).run();
}

}  // namespace swiftprune
