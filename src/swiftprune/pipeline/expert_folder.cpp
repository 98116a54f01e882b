#include "swiftprune/pipeline/expert_folder.h"

#include <functional>
#include <numeric>
#include <utility>

#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/checkpoint/model_card.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/progress.h"

namespace swiftprune {

ExpertFolder::ExpertFolder(const Model& model) : model_(model) {
  const ModelConfig& m = model.config();
  for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
    const auto& experts = m.blocks[static_cast<std::size_t>(layer)].experts;
    if (experts) layers_.try_emplace(layer, model.checkpoint(), *experts, m.hidden_size);
  }
}

const ExpertsConfig& ExpertFolder::config_of(std::int64_t layer) const {
  return *model_.config().blocks[static_cast<std::size_t>(layer)].experts;
}

void ExpertFolder::reshape(const std::string& name, std::vector<std::int64_t> shape) {
  shapes_[name] = std::move(shape);
}

std::vector<PlannedTensor> ExpertFolder::plan(std::uint64_t max_shard_bytes) {
  std::vector<PlannedTensor> planned;
  bool single = true;
  num_parameters_ = 0;
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    if (left_out_.contains(tensor.name)) continue;
    single = single && tensor.file == kSafetensorsFile;
    const auto reshaped = shapes_.find(tensor.name);
    planned.push_back({tensor.name, tensor.dtype, reshaped != shapes_.end() ? reshaped->second : tensor.shape,
                       kSafetensorsFile});
    const auto& shape = planned.back().shape;
    num_parameters_ += std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  if (!single) assign_shards(planned, max_shard_bytes);
  return planned;
}

void ExpertFolder::copy_rest(CheckpointWriter& writer) const {
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    if (shapes_.contains(tensor.name) || left_out_.contains(tensor.name) || !writer.writes(tensor.name))
      continue;
    check_interrupt();
    writer.write_bytes(tensor.name, model_.checkpoint().bytes(tensor));
    model_.checkpoint().release(tensor);
  }
}

void ExpertFolder::write_rest(const EditConfig& edit, const nlohmann::ordered_json& record,
                              CheckpointWriter& writer) const {
  nlohmann::ordered_json config = read_config_file(model_.checkpoint());
  edit(config.contains("text_config") ? config["text_config"] : config);
  writer.write_file("config.json", config.dump(2) + "\n");
  writer.write_file("swiftprune.json", record.dump(1) + "\n");
  write_model_card(model_.checkpoint(), record, false, writer);
  const std::string plan_of_prune[] = {"plan.json"};
  writer.copy_other_files(model_.checkpoint(), plan_of_prune);
}

Matrix turned(ConstMatrixView matrix) {
  Matrix result(matrix.cols, matrix.rows);
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t c = 0; c < matrix.cols; ++c) result.at(c, r) = matrix.at(r, c);
  }
  return result;
}

}  // namespace swiftprune
