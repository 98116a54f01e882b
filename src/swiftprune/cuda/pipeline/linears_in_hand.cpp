#include "swiftprune/cuda/pipeline/linears_in_hand.h"

#include <algorithm>

#include "swiftprune/core/error.h"

namespace swiftprune::cuda {

LinearsInHand::LinearsInHand(DeviceMemory& memory, const Model& model, const Plan& plan, cudaStream_t stream)
    : model_(model) {
  for (const BlockConfig& block : model.config().blocks) {
    const LinearNumbers numbers(block);
    most_ = std::max(most_, numbers.size());
    most_without_experts_ = std::max(most_without_experts_, numbers.before_experts());
    most_parts_ = std::max(most_parts_, numbers.parts());
  }
  if (most_parts_ > 0) held_.emplace(memory, model, stream);
  for (const PlanEntry& entry : plan.entries) {
    if (entry.prune) pruned_tensors_.insert(entry.tensor);
  }
}

void LinearsInHand::start_block(BlockWeights& dense, BlockWeights& pruned) {
  numbers_.emplace(dense.config());
  dense_ = &dense;
  pruned_ = &pruned;
}

std::size_t LinearsInHand::part(std::size_t linear) const {
  expect(expert_in_hand() && numbers_->expert(linear) == held_->expert(), "a linear of the expert in hand");
  return numbers_->part(linear);
}

DeviceView LinearsInHand::dense(std::size_t linear) const {
  return is_of_expert(linear) ? held_->dense(part(linear)) : dense_->weight(linear);
}

DeviceView LinearsInHand::pruned(std::size_t linear) const {
  return is_of_expert(linear) ? held_->pruned(part(linear)) : pruned_->weight(linear);
}

std::string LinearsInHand::tensor(std::size_t linear) const {
  if (!is_of_expert(linear)) return dense_->layout().weights[linear].tensor;
  const ExpertsConfig& experts = *dense_->config().experts;
  const ExpertPart part = parts_of(experts)[numbers_->part(linear)];
  return expert_linear(experts, model_.config().hidden_size, numbers_->expert(linear), part).name + ".weight";
}

std::int64_t LinearsInHand::expert_inputs(LinearInput input) const {
  const auto parts = held_->parts();
  return std::find_if(parts.begin(), parts.end(), [&](const auto& weight) { return weight.input == input; })
      ->cols;
}

std::vector<std::size_t> LinearsInHand::readers(LinearInput input) const {
  const auto all = weights();
  const std::size_t first = expert_in_hand() ? numbers_->first_of(held_->expert()) : 0;
  std::vector<std::size_t> linears;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].input == input) linears.push_back(first + i);
  }
  return linears;
}

void LinearsInHand::put_expert(LinearInput input) {
  for (const std::size_t linear : readers(input)) {
    if (pruned_tensors_.contains(tensor(linear))) held_->put(part(linear), *pruned_);
  }
}

}  // namespace swiftprune::cuda
