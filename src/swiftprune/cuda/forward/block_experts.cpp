// BlockWeights where the block has experts: in its buffer in the compute dtype, or packed beside it.
#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/cuda/forward/block_weights.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/sparse/packed_header.h"

namespace swiftprune::cuda {

bool has_packed_experts(const Model& model, const BlockConfig& block) {
  if (!block.experts) return false;
  for (std::int64_t e = 0; e < block.experts->count; ++e) {
    for (const ExpertPart part : parts_of(*block.experts)) {
      if (is_packed(model.checkpoint(), {expert_linear(*block.experts, model.config().hidden_size, e, part)}))
        return true;
    }
  }
  return false;
}

namespace {

// Of the linears of a block's experts that read one input.
void check_stack(const Model& model, const ExpertsConfig& experts, std::span<const ExpertPart> parts,
                 DType compute) {
  const Checkpoint& checkpoint = model.checkpoint();
  std::optional<PackedShape> first;
  for (std::int64_t e = 0; e < experts.count; ++e) {
    for (const ExpertPart part : parts) {
      const std::string name = expert_linear(experts, model.config().hidden_size, e, part).name + ".weight";
      std::optional<PackedShape> shape = find_packed_shape(checkpoint, name);
      if (!shape) shape = PackedShape{.dtype = checkpoint.at(name).dtype};
      if (!first) first = shape;
      const auto problem = ExpertStack::problem(*first, *shape, compute);
      if (!problem) continue;
      bad_usage("{}: tensor {}: {}, {}; {}, or make them dense: swiftprune unpack",
                checkpoint.folder().string(), name, *problem, capabilities().where, capabilities().instead);
    }
  }
}

}  // namespace

void check_packed_experts(const Model& model, DType compute) {
  for (const BlockConfig& block : model.config().blocks) {
    if (!has_packed_experts(model, block)) continue;
    check_stack(model, *block.experts, inner_parts_of(*block.experts), compute);
    check_stack(model, *block.experts, parts_of(*block.experts).last(1), compute);
  }
}

void BlockWeights::load_packed_experts(DeviceMemory& memory, cudaStream_t stream) {
  up_stack_.reset();
  down_stack_.reset();
  if (!layout_.packed_experts) return;
  const ExpertsConfig& experts = *config().experts;
  const auto stack = [&](std::span<const ExpertPart> of_input) {
    const std::int64_t each = std::ssize(of_input);
    std::vector<std::optional<PackedTensor>> found(static_cast<std::size_t>(experts.count * each));
    parallel_for(std::ssize(found), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const ExpertPart part = of_input[static_cast<std::size_t>(i % each)];
        const LinearTensors linear = expert_linear(experts, model_.config().hidden_size, i / each, part);
        const std::string name = linear.name + ".weight";
        std::optional<PackedTensor>& packed = found[static_cast<std::size_t>(i)];
        packed = find_packed(model_.checkpoint(), name, linear.outputs, linear.inputs);
        if (!packed) packed = pack_dense(model_.checkpoint(), name);
      }
    });
    std::vector<PackedTensor> linears;
    for (std::optional<PackedTensor>& packed : found) linears.push_back(std::move(packed.value()));
    return ExpertStack(memory, linears, each, compute_, stream);
  };
  up_stack_.emplace(stack(inner_parts_of(experts)));
  down_stack_.emplace(stack(parts_of(experts).last(1)));
  for (std::int64_t e = 0; e < experts.count; ++e) experts_->release(e);
}

std::int64_t BlockWeights::expert_bytes(std::int64_t tokens) const {
  const auto& experts = config().experts;
  if (!experts) return 0;
  const std::int64_t used = std::min(experts->count, tokens * experts->router.top_k);
  const std::int64_t router = experts->count * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t each =
      up_stack_
          ? static_cast<std::int64_t>(up_stack_->expert_bytes() + down_stack_->expert_bytes())
          : model_.config().hidden_size * std::ssize(parts_of(*experts)) * experts->width * size_of(compute_);
  return used * each + model_.config().hidden_size * router;
}

std::uint64_t BlockWeights::expert_offset(std::int64_t expert, ExpertPart part) const {
  const ExpertsConfig& experts = *config().experts;
  const std::int64_t one = experts.width * model_.config().hidden_size * size_of(compute_);
  if (part == ExpertPart::kDown) return layout_.expert_down_offset + static_cast<std::uint64_t>(expert * one);
  const std::int64_t place =
      expert * std::ssize(inner_parts_of(experts)) + (part == ExpertPart::kUp && experts.gated ? 1 : 0);
  return layout_.expert_up_offset + static_cast<std::uint64_t>(place * one);
}

DeviceView BlockWeights::expert_up(std::int64_t expert) const {
  const ExpertsConfig& experts = *config().experts;
  return view_of(buffer_.data() + expert_offset(expert, parts_of(experts).front()), compute_,
                 std::ssize(inner_parts_of(experts)) * experts.width, model_.config().hidden_size);
}

DeviceView BlockWeights::expert_down(std::int64_t expert) const {
  return view_of(buffer_.data() + expert_offset(expert, ExpertPart::kDown), compute_,
                 model_.config().hidden_size, config().experts->width);
}

void BlockWeights::expert_up_linear(Products& products, std::int64_t expert, DeviceView x, DeviceView y,
                                    DeviceView scratch, cudaStream_t stream) const {
  if (up_stack_) {
    up_stack_->linear(products, expert, x, expert_up_bias(expert), y, scratch, stream);
  } else {
    products.linear(x, expert_up(expert), expert_up_bias(expert), y);
  }
}

void BlockWeights::expert_down_linear(Products& products, std::int64_t expert, DeviceView x, DeviceView y,
                                      DeviceView scratch, cudaStream_t stream) const {
  if (down_stack_) {
    down_stack_->linear(products, expert, x, expert_down_bias(expert), y, scratch, stream);
  } else {
    products.linear(x, expert_down(expert), expert_down_bias(expert), y);
  }
}

const void* BlockWeights::expert_up_bias(std::int64_t expert) const {
  const float* all = extra(up_bias_offset_);
  if (all == nullptr) return nullptr;
  const ExpertsConfig& experts = *config().experts;
  return reinterpret_cast<const std::byte*>(all) +
         expert * std::ssize(inner_parts_of(experts)) * experts.width * size_of(compute_);
}

const float* BlockWeights::expert_down_bias(std::int64_t expert) const {
  const float* all = extra(down_bias_offset_);
  return all == nullptr ? nullptr : all + expert * model_.config().hidden_size;
}

DeviceView BlockWeights::router() const {
  return view_of(const_cast<float*>(extra(router_offset_)), DType::kF32, config().experts->count,
                 model_.config().hidden_size);
}

}  // namespace swiftprune::cuda
