// Where the weights of a model's linears stand in its files, by the names that plans, records and packed models
// know them by: "<linear>.weight". An expert's linear has such a name in every form of the file
// (expert_tensors.h), also where one tensor holds all experts of a block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/sparse/weight_parts.h"

namespace swiftprune {

// A linear of a block, an expert's too.
struct BlockWeight {
  LinearTensors tensors;
  std::int64_t layer = 0;
  std::int64_t expert = -1;  // -1: every token passes it
  std::string name() const { return tensors.name + ".weight"; }
};
// linears_of() of every block, and behind them its experts' gate, up and down, one expert after the other.
std::vector<BlockWeight> block_weights(const ModelConfig& model);

class StoredWeights final : public WeightParts {
 public:
  // Of the folder's own config.json. Throws Error{kBadInput} naming the tensor. `checkpoint` must outlive this.
  explicit StoredWeights(const Checkpoint& checkpoint);

  // A weight that is part of a larger tensor.
  struct Part {
    const ExpertTensors* experts = nullptr;
    std::int64_t expert = 0;
    ExpertPart part = ExpertPart::kGate;
  };
  // Null for a weight with a tensor of its own.
  const Part* part(const std::string& name) const;
  // The tensor that holds a part; of MXFP4 the one of the blocks.
  std::string holder(const std::string& name) const;
  bool has_parts() const { return !parts_.empty(); }
  bool holds_parts(const std::string& tensor) const override { return holders_.contains(tensor); }
  std::vector<PlannedTensor> plan_in_parts() const override;
  // Values of MXFP4 are BF16, which holds them exactly.
  Info info(const std::string& name) const override;
  std::vector<std::byte> bytes(const std::string& name) const override;
  void release(const std::string& name) const override;

 private:
  ModelConfig config_;
  std::vector<std::unique_ptr<ExpertTensors>> experts_;
  std::map<std::string, Part> parts_;
  std::set<std::string> holders_;
};

}  // namespace swiftprune
