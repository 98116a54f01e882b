// The folder of a model whose experts lost inner channels: the same family, form and dtypes, config.json with the new width.
// transformers loads it like any other model of the family.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/drivers/narrow_experts.h"
#include "swiftprune/pipeline/expert_folder.h"

namespace swiftprune {

class NarrowCheckpoint final : public NarrowedExpertsOutput {
 public:
  NarrowCheckpoint(const Model& model, std::int64_t width, const std::filesystem::path& folder,
                   std::uint64_t max_shard_bytes = kShardBytes);

  void write(std::int64_t layer, std::int64_t expert, std::span<const std::int64_t> kept,
             ConstMatrixView down) override;
  // After the last layer: all other tensors, config.json, the other files, the record.
  void finish(const nlohmann::ordered_json& record);
  std::int64_t num_parameters() const { return folder_.num_parameters(); }

 private:
  std::vector<PlannedTensor> plan(std::uint64_t max_shard_bytes);
  void add_shapes(const ExpertTensors& tensors, const ExpertsConfig& experts);
  void write_gate_and_up(const ExpertTensors& tensors, std::int64_t expert,
                         std::span<const std::int64_t> kept);
  void write_biases(const ExpertTensors& tensors, std::int64_t expert, std::span<const std::int64_t> kept);

  std::int64_t width_;
  ExpertFolder folder_;
  CheckpointWriter writer_;
};

}  // namespace swiftprune
