// The folder of a shrunk model: tensors at their new sizes, layers renumbered, config.json with the new
// numbers, everything else as it was. transformers and llama.cpp load it like any other model of the family.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/pipeline/drivers/shrink.h"

namespace swiftprune {

// "model.layers." of "model.layers.0.self_attn.o_proj".
std::string layers_prefix(const ModelConfig& model);

class ShrunkCheckpoint final : public ShrinkOutput {
 public:
  // added_biases: of added_biases(). joined: as CheckpointWriter has it. max_shard_bytes: shards are made anew when the source has several.
  ShrunkCheckpoint(const Model& model, const ShrinkShape& shape, std::span<const std::int64_t> removed_layers,
                   const std::filesystem::path& folder, std::vector<LinearInput> added_biases = {},
                   const std::string& joined = {}, std::uint64_t max_shard_bytes = kShardBytes);

  bool takes(const std::string& name) const override { return writer_.writes(new_name(name)); }
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override;
  void write_bias(const std::string& name, std::span<const float> values) override;
  // After the last block: the tensors outside the blocks.
  void copy_rest();
  CheckpointWriter& writer() { return writer_; }
  // Then config.json, the other files, the record. The folder then stands under its own name.
  void finish(const nlohmann::ordered_json& record);

  std::int64_t num_parameters() const { return num_parameters_; }  // all tensors of the new folder

 private:
  // "model.layers.7.mlp.up_proj.weight" in its new place; empty when its layer is gone.
  std::string new_name(const std::string& name) const;
  std::vector<std::int64_t> new_shape(const TensorInfo& tensor) const;
  // The name of the bias that the linear with this weight gets; empty when it gets none.
  std::string added_bias(const std::string& weight) const;
  std::vector<PlannedTensor> plan(std::uint64_t max_shard_bytes);
  nlohmann::ordered_json config() const;
  void set_layer_sizes(nlohmann::ordered_json& config) const;
  void copy(const TensorInfo& tensor);
  void mark(const std::string& name);

  const Model& model_;
  ShrinkShape shape_;
  std::vector<LinearInput> added_biases_;
  std::string layers_prefix_;                       // "model.layers."
  std::map<std::int64_t, std::int64_t> new_index_;  // of the layers that stay
  std::mutex mutex_;
  std::set<std::string> written_;  // old names
  std::int64_t num_parameters_ = 0;
  CheckpointWriter writer_;
};

}  // namespace swiftprune
