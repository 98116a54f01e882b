// What the folders of models whose experts changed have in common (expert_checkpoint.h, narrow_checkpoint.h): the tensors
// of the model, some of which take another shape or are gone, config.json with a number changed, the other files and the
// record.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/model.h"

namespace swiftprune {

class ExpertFolder {
 public:
  explicit ExpertFolder(const Model& model);

  const Model& model() const { return model_; }
  // Of each layer that has experts.
  const std::map<std::int64_t, ExpertTensors>& layers() const { return layers_; }
  const ExpertTensors& tensors_of(std::int64_t layer) const { return layers_.at(layer); }
  const ExpertsConfig& config_of(std::int64_t layer) const;

  // Before plan(). What the run writes itself, with the shape that it will have, and what goes.
  void reshape(const std::string& name, std::vector<std::int64_t> shape);
  void leave_out(const std::string& name) { left_out_.insert(name); }
  // Shards are made anew when the source has several.
  std::vector<PlannedTensor> plan(std::uint64_t max_shard_bytes);
  std::int64_t num_parameters() const { return num_parameters_; }  // of what is planned

  // All other tensors.
  void copy_rest(CheckpointWriter& writer) const;
  // config.json with what `edit` makes of its part about the text model, the record and the other
  // files. The writer is not finished yet.
  using EditConfig = std::function<void(nlohmann::ordered_json& config)>;
  void write_rest(const EditConfig& edit, const nlohmann::ordered_json& record,
                  CheckpointWriter& writer) const;

 private:
  const Model& model_;
  std::map<std::int64_t, ExpertTensors> layers_;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
  std::set<std::string> left_out_;
  std::int64_t num_parameters_ = 0;
};

// [cols, rows]: experts may be stored by input.
Matrix turned(ConstMatrixView matrix);

}  // namespace swiftprune
