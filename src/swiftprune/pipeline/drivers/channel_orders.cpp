#include "swiftprune/pipeline/drivers/channel_orders.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/refinement/layer_error.h"
#include "swiftprune/scoring/scorer.h"
#include "swiftprune/selection/channel_order.h"
#include "swiftprune/tensor/reorder.h"

namespace swiftprune {
namespace {

constexpr LinearInput kOutputs[] = {LinearInput::kAttentionOutput, LinearInput::kMlpOutput};

// What a kept weight is worth: squares of the keys, in which the error of a lost weight grows.
Matrix squared_keys(const ScoreView& scores) {
  Matrix squares(scores.values.rows, scores.values.cols);
  parallel_for(squares.rows(), 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      for (std::int64_t c = 0; c < squares.cols(); ++c) {
        const float key = score_key(scores, r, c);
        squares.at(r, c) = key * key;
      }
    }
  });
  return squares;
}

// [O·shared, size]: the columns of one set, those of the sets that share its order below one another.
Matrix rows_of_set(const ChannelFold& fold, ConstMatrixView scores, std::int64_t set) {
  Matrix rows(scores.rows * fold.shared, fold.size);
  for (std::int64_t copy = 0; copy < fold.shared; ++copy) {
    const ConstMatrixView columns = scores.col_block((set * fold.shared + copy) * fold.size, fold.size);
    for (std::int64_t r = 0; r < scores.rows; ++r)
      std::copy_n(columns.row(r), fold.size, rows.row(copy * scores.rows + r));
  }
  return rows;
}

bool permutes(Permute permute, LinearInput input) {
  return permute == Permute::kAll ? is_output(input)
                                  : permute == Permute::kMlp && input == LinearInput::kMlpOutput;
}

bool is_permuted(const Plan& plan, const PlanEntry& entry) {
  return permutes(plan.permute, entry.input) && entry.prune && entry.pattern.kind == Pattern::Kind::kNofM;
}

}  // namespace

void ChannelOrders::start_block(std::int64_t layer, const FinishedBlock* finished) {
  layer_ = layer;
  chosen_.clear();
  if (finished == nullptr) return;
  const BlockConfig& block = run_.model.config().blocks[static_cast<std::size_t>(layer)];
  for (const LinearInput output : kOutputs) {
    const auto fold = channel_fold(run_.model.config(), block, output);
    if (!fold) continue;
    const std::string name = linears_of(block)[fold->linear].name + ".weight";
    for (const TensorResult& tensor : finished->tensors) {
      if (tensor.name == name && !tensor.order.empty())
        chosen_.push_back({*fold, fold->of_channels(tensor.order)});
    }
  }
}

const PlanEntry* ChannelOrders::entry_of(std::size_t linear) const {
  const BlockConfig& block = run_.model.config().blocks[static_cast<std::size_t>(layer_)];
  const std::string name = linears_of(block)[linear].name + ".weight";
  for (const PlanEntry& entry : run_.plan.entries) {
    if (entry.tensor == name) return &entry;
  }
  return nullptr;
}

double ChannelOrders::selection_error(const PlanEntry& entry, ConstMatrixView weight,
                                      const LayerStats& stats) const {
  Matrix pruned = copy_of(weight);
  const Scores scores = make_scorer(entry.score)->score(weight_view(weight), stats, backend_, entry.tensor);
  selector_.prune(mutable_weight_view(pruned.view()), scores, entry.target(run_.plan.rounding));
  return output_error(weight, pruned.view(), stats, backend_).value_or(0.0);
}

std::vector<std::int64_t> ChannelOrders::choose(const ChannelFold& fold, const PlanEntry& entry,
                                                ConstMatrixView weight, const LayerStats& stats) const {
  const Scores scores = make_scorer(entry.score)->score(weight_view(weight), stats, backend_, entry.tensor);
  const Matrix worth = squared_keys(scores.view(weight_view(weight)));
  std::vector<std::int64_t> channels(static_cast<std::size_t>(fold.num_channels()));
  const std::int64_t sets = fold.num_channels() / fold.size;
  const auto order_sets = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t set = first; set < last; ++set) {
      const Matrix rows = rows_of_set(fold, worth.view(), set);
      const auto order = grouped_order(rows.view(), entry.pattern);
      for (std::int64_t i = 0; i < fold.size; ++i)
        channels[static_cast<std::size_t>(set * fold.size + i)] =
            set * fold.size + order[static_cast<std::size_t>(i)];
    }
  };
  parallel_for(sets, 1, order_sets);
  return channels;
}

void ChannelOrders::start_input(DecoderBlock& block, LinearInput input,
                                std::optional<ActivationStats>& stats) {
  if (!permutes(run_.plan.permute, input)) return;
  const auto fold = channel_fold(run_.model.config(), block.config(), input);
  const PlanEntry* entry = fold ? entry_of(fold->linear) : nullptr;
  if (entry == nullptr || !is_permuted(run_.plan, *entry)) return;
  const Stopwatch watch(run_.seconds.select);
  Matrix& weight = block.linears()[fold->linear].weight;
  check_finite(weight.view(), entry->tensor);
  const auto view = [&] { return stats ? stats->view() : LayerStats{}; };
  Chosen chosen{*fold, choose(*fold, *entry, weight.view(), view())};
  const std::vector<std::int64_t> inputs = fold->of_inputs(chosen.channels);
  if (std::is_sorted(inputs.begin(), inputs.end())) return;
  const double before = stats ? selection_error(*entry, weight.view(), view()) : 0.0;
  const auto reorder = [&](std::span<const std::int64_t> order) {
    reorder_columns(weight.values(), order);
    if (stats) stats->reorder(order);
  };
  reorder(inputs);
  // Without statistics the order keeps more of the score, which is all that is known.
  if (stats && selection_error(*entry, weight.view(), view()) >= before) return reorder(inverse(inputs));
  chosen_.push_back(std::move(chosen));
}

void ChannelOrders::end_input(DecoderBlock& block, LinearInput input) {
  for (const Chosen& chosen : chosen_) {
    BlockLinear& linear = block.linears()[chosen.fold.linear];
    if (linear.tensors.input == input)
      reorder_columns(linear.weight.values(), inverse(chosen.fold.of_inputs(chosen.channels)));
  }
}

std::vector<std::int64_t> ChannelOrders::of_inputs(std::size_t linear) const {
  for (const Chosen& chosen : chosen_) {
    if (chosen.fold.linear == linear) return chosen.fold.of_inputs(chosen.channels);
  }
  return {};
}

bool ChannelOrders::moves_rows(std::size_t linear) const {
  return std::any_of(chosen_.begin(), chosen_.end(),
                     [&](const Chosen& chosen) { return chosen.fold.moves_rows_of(linear); });
}

void ChannelOrders::to_file(std::size_t linear, MatrixView weight, std::span<float> bias) const {
  for (const Chosen& chosen : chosen_) reorder_linear(chosen.fold, chosen.channels, linear, weight, bias);
}

void ChannelOrders::from_file(std::size_t linear, MatrixView weight) const {
  for (const Chosen& chosen : chosen_)
    reorder_linear(chosen.fold, inverse(chosen.channels), linear, weight, {});
}

void check_permute(const Plan& plan, const ModelConfig& model) {
  if (plan.permute == Permute::kNone) return;
  const std::string flag = fmt::format("--permute {}", name_of(plan.permute));
  bool any = false;
  for (const PlanEntry& entry : plan.entries) {
    if (entry.prune && entry.grid) {
      bad_usage("{}: found with {} on the grid {}, expected weights without a grid; leave one of them out",
                flag, entry.tensor, format(*entry.grid));
    }
    if (entry.prune && entry.pattern.kind == Pattern::Kind::kBlock && !is_output(entry.input)) {
      bad_usage(
          "{}: found {} with the pattern {}, expected one that its rows can change places in; leave one of "
          "them "
          "out",
          flag, entry.tensor, format(entry.pattern));
    }
    if (!is_output(entry.input) || !permutes(plan.permute, entry.input)) continue;
    if (!is_permuted(plan, entry)) continue;
    any = true;
    std::string_view why;
    const auto fold =
        channel_fold(model, model.blocks[static_cast<std::size_t>(entry.layer)], entry.input, &why);
    if (!fold) {
      bad_usage(
          "{}: {}: found {}, which binds its inputs to their places, expected a model without; leave it "
          "out{}",
          flag, entry.tensor, why, plan.permute == Permute::kAll ? ", or use --permute mlp" : "");
    }
    if (fold->size % entry.pattern.m != 0) {
      bad_usage(
          "{}: {}: found {} inputs that can change places with the pattern {}, expected a multiple of {}",
          flag, entry.tensor, fold->size, format(entry.pattern), entry.pattern.m);
    }
  }
  if (!any) {
    bad_usage(
        "{}: found no output projection that is pruned N:M, expected a pattern such as 2:4; leave it out",
        flag);
  }
}

}  // namespace swiftprune
