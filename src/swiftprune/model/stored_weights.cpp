#include "swiftprune/model/stored_weights.h"

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"

namespace swiftprune {

std::vector<BlockWeight> block_weights(const ModelConfig& model) {
  std::vector<BlockWeight> weights;
  for (std::int64_t layer = 0; layer < model.num_layers(); ++layer) {
    const BlockConfig& block = model.blocks[static_cast<std::size_t>(layer)];
    for (const LinearTensors& linear : linears_of(block)) weights.push_back({linear, layer, -1});
    if (!block.experts) continue;
    for (std::int64_t e = 0; e < block.experts->count; ++e) {
      for (const ExpertPart part : parts_of(*block.experts))
        weights.push_back({expert_linear(*block.experts, model.hidden_size, e, part), layer, e});
    }
  }
  return weights;
}

StoredWeights::StoredWeights(const Checkpoint& checkpoint)
    : WeightParts(checkpoint), config_(model_config(checkpoint.config())) {
  for (const BlockConfig& block : config_.blocks) {
    if (!block.experts) continue;
    auto tensors = std::make_unique<ExpertTensors>(checkpoint, *block.experts, config_.hidden_size);
    if (tensors->form() == ExpertForm::kSeparate) continue;
    for (const std::string& name : tensors->weight_names()) holders_.insert(name);
    for (std::int64_t e = 0; e < block.experts->count; ++e) {
      for (const ExpertPart part : parts_of(*block.experts)) {
        part_names_.push_back(expert_linear(*block.experts, config_.hidden_size, e, part).name + ".weight");
        parts_.emplace(part_names_.back(), Part{tensors.get(), e, part});
      }
    }
    experts_.push_back(std::move(tensors));
  }
}

const StoredWeights::Part* StoredWeights::part(const std::string& name) const {
  const auto found = parts_.find(name);
  return found == parts_.end() ? nullptr : &found->second;
}

std::string StoredWeights::holder(const std::string& name) const {
  const Part& of = parts_.at(name);
  if (of.experts->form() != ExpertForm::kMxfp4) return of.experts->place(of.expert, of.part).tensor;
  return of.experts->weight_names()[of.part == ExpertPart::kDown ? 2 : 0];
}

std::vector<PlannedTensor> StoredWeights::plan_in_parts() const {
  std::vector<PlannedTensor> plan;
  std::map<std::string, std::string> files;  // of the tensors that hold parts
  for (PlannedTensor& tensor : plan_like(checkpoint_)) {
    if (holds_parts(tensor.name)) {
      files.emplace(tensor.name, tensor.file);
    } else {
      plan.push_back(std::move(tensor));
    }
  }
  for (const std::string& name : part_names_) {
    const Part& part = parts_.at(name);
    const Info info = this->info(name);
    plan.push_back(
        {name, info.dtype, {info.rows, info.cols}, files.at(part.experts->weight_names().front())});
  }
  return plan;
}

StoredWeights::Info StoredWeights::info(const std::string& name) const {
  if (const Part* of = part(name)) {
    const ExpertTensors& experts = *of->experts;
    return {experts.dtype(of->expert, of->part), experts.outputs(of->part), experts.inputs(of->part),
            checkpoint_.at(experts.weight_names().front()).file};
  }
  return WeightParts::info(name);
}

std::vector<std::byte> StoredWeights::bytes(const std::string& name) const {
  if (const Part* of = part(name)) {
    std::vector<std::byte> own;
    const std::span<const std::byte> bytes = of->experts->bytes(of->expert, of->part, own);
    return {bytes.begin(), bytes.end()};
  }
  return WeightParts::bytes(name);
}

void StoredWeights::release(const std::string& name) const {
  if (const Part* of = part(name)) {
    if (of->part == ExpertPart::kDown) of->experts->release(of->expert);
    return;
  }
  WeightParts::release(name);
}

}  // namespace swiftprune
