// The linears of the block that is pruned, by number (pipeline/drivers/linear_numbers.h): where their weights lie, before
// and after. Those of experts are the ones of the expert in hand.
#pragma once

#include <cstddef>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/cuda/pipeline/held_expert.h"
#include "swiftprune/pipeline/drivers/linear_numbers.h"
#include "swiftprune/pipeline/plan.h"

namespace swiftprune::cuda {

class LinearsInHand {
 public:
  // Room for one expert where the model has some.
  LinearsInHand(DeviceMemory& memory, const Model& model, const Plan& plan, cudaStream_t stream);

  // pruned: where pruned weights go, which may be the dense block itself. Both must stay until the next call.
  void start_block(BlockWeights& dense, BlockWeights& pruned);
  std::size_t size() const { return numbers_->size(); }  // of the block
  std::size_t most() const { return most_; }             // of any block, all experts' among them
  // Of what there is once for each linear of a block and for each part of one expert; and a linear's place in it.
  std::size_t num_slots() const { return most_without_experts_ + most_parts_; }
  std::size_t slot(std::size_t linear) const {
    return numbers_->is_of_expert(linear) ? most_without_experts_ + part(linear) : linear;
  }

  bool is_of_expert(std::size_t linear) const { return numbers_->is_of_expert(linear); }
  bool expert_in_hand() const { return held_ && held_->expert() >= 0; }
  std::optional<HeldExpert>& held() { return held_; }  // nothing where the model has no experts

  DeviceView dense(std::size_t linear) const;
  DeviceView pruned(std::size_t linear) const;
  std::string tensor(std::size_t linear) const;
  // The observed width of an input of the expert in hand.
  std::int64_t expert_inputs(LinearInput input) const;
  // Those that read `input`, of the expert in hand or of the block without its experts.
  std::vector<std::size_t> readers(LinearInput input) const;
  // The expert's weights that the plan prunes and that read `input` take the place of the block's own.
  void put_expert(LinearInput input);

 private:
  std::size_t part(std::size_t linear) const;
  std::span<const BlockLayout::Weight> weights() const {
    return expert_in_hand() ? held_->parts() : std::span<const BlockLayout::Weight>(dense_->layout().weights);
  }

  const Model& model_;
  std::set<std::string> pruned_tensors_;  // by the plan
  std::size_t most_ = 0, most_without_experts_ = 0, most_parts_ = 0;
  std::optional<HeldExpert> held_;
  std::optional<LinearNumbers> numbers_;  // of the block
  BlockWeights* dense_ = nullptr;
  BlockWeights* pruned_ = nullptr;
};

}  // namespace swiftprune::cuda
