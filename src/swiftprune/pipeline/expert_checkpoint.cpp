#include "swiftprune/pipeline/expert_checkpoint.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

ExpertCheckpoint::ExpertCheckpoint(const Model& model, std::int64_t keep, const fs::path& folder,
                                   std::uint64_t max_shard_bytes)
    : model_(model), keep_(keep), writer_(folder, plan(max_shard_bytes)) {}

const ExpertsConfig& ExpertCheckpoint::config_of(std::int64_t layer) const {
  return *model_.config().blocks[at(layer)].experts;
}

std::vector<PlannedTensor> ExpertCheckpoint::plan(std::uint64_t max_shard_bytes) {
  const ModelConfig& m = model_.config();
  std::set<std::string> gone;  // separate tensors whose index is no longer there
  for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
    const BlockConfig& block = m.blocks[at(layer)];
    if (!block.experts) continue;
    const ExpertTensors& tensors =
        experts_.try_emplace(layer, model_.checkpoint(), *block.experts, m.hidden_size).first->second;
    const RouterConfig& router = block.experts->router;
    for (const std::string& name : {router.weight, router.bias, router.correction_bias}) {
      if (!name.empty()) sliced_.insert(name);
    }
    if (tensors.form() != ExpertForm::kSeparate) {
      sliced_.insert(tensors.names().begin(), tensors.names().end());
      continue;
    }
    for (const std::string& name : tensors.names()) separate_.insert(name);
    for (std::int64_t e = keep_; e < block.experts->count; ++e) {
      for (const std::string& name : tensors.names_of(e)) gone.insert(name);
    }
  }
  const std::string prefix = layers_prefix(m);
  const std::string further = fmt::format("{}{}.", prefix, m.num_layers());
  std::vector<PlannedTensor> planned;
  bool single = true;
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    if (tensor.name.starts_with(further)) {
      left_out_.insert(tensor.name);
      continue;
    }
    single = single && tensor.file == kSafetensorsFile;
    if (gone.contains(tensor.name)) continue;
    planned.push_back({tensor.name, tensor.dtype, tensor.shape, kSafetensorsFile});
    if (sliced_.contains(tensor.name)) planned.back().shape.front() = keep_;
    num_parameters_ += std::accumulate(planned.back().shape.begin(), planned.back().shape.end(),
                                       std::int64_t{1}, std::multiplies<>());
  }
  if (!single) assign_shards(planned, max_shard_bytes);
  return planned;
}

void ExpertCheckpoint::write_down(std::int64_t layer, std::int64_t index, ConstMatrixView weight) {
  const ExpertTensors& tensors = experts_.at(layer);
  const ExpertTensors::Place place = tensors.place(index, ExpertPart::kDown);
  Matrix turned;
  if (place.column != 1) {
    turned = Matrix(weight.cols, weight.rows);
    for (std::int64_t r = 0; r < weight.rows; ++r) {
      for (std::int64_t c = 0; c < weight.cols; ++c) turned.at(c, r) = weight.at(r, c);
    }
  } else {
    turned = copy_of(weight);
  }
  writer_.write_part(place.tensor, place.first, turned.values());
}

void ExpertCheckpoint::copy_slices(const std::string& name, std::span<const std::int64_t> kept) {
  for (std::size_t i = 0; i < kept.size(); ++i) copy_part(name, kept[i], static_cast<std::int64_t>(i));
}

void ExpertCheckpoint::copy_part(const std::string& name, std::int64_t expert, std::int64_t index) {
  const TensorInfo& tensor = model_.checkpoint().at(name);
  const std::int64_t numel = tensor.numel() / tensor.shape.front();
  std::vector<std::byte> own;
  writer_.write_bytes_part(name, index * numel, model_.checkpoint().bytes_of_part(tensor, expert, 1, own));
}

void ExpertCheckpoint::copy_separate(const ExpertTensors& tensors, std::int64_t expert, std::int64_t index,
                                     bool refitted) {
  check_interrupt();
  const std::vector<std::string> from = tensors.names_of(expert);
  const std::vector<std::string> to = tensors.names_of(index);
  const std::string down = tensors.place(index, ExpertPart::kDown).tensor;
  for (std::size_t part = 0; part < from.size(); ++part) {
    if (refitted && to[part] == down) continue;
    const TensorInfo& tensor = model_.checkpoint().at(from[part]);
    if (tensor.dtype != model_.checkpoint().at(to[part]).dtype) {
      bad_input("{}: tensor {}: found {}, expected {} as of {}: one dtype for all experts",
                model_.checkpoint().folder().string(), tensor.name, name_of(tensor.dtype),
                name_of(model_.checkpoint().at(to[part]).dtype), to[part]);
    }
    writer_.write_bytes(to[part], model_.checkpoint().bytes(tensor));
  }
  tensors.release(expert);
}

void ExpertCheckpoint::keep(std::int64_t layer, std::span<const std::int64_t> kept,
                            const std::vector<bool>& refitted) {
  expect(std::ssize(kept) == keep_ && refitted.size() == kept.size(), "keep: as many as planned");
  const ExpertTensors& tensors = experts_.at(layer);
  const RouterConfig& router = config_of(layer).router;
  for (const std::string& name : {router.weight, router.bias, router.correction_bias}) {
    if (!name.empty()) copy_slices(name, kept);
  }
  if (tensors.form() == ExpertForm::kSeparate) {
    parallel_for(std::ssize(kept), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) copy_separate(tensors, kept[at(i)], i, refitted[at(i)]);
    });
    return;
  }
  const std::string down =
      tensors.form() == ExpertForm::kMxfp4 ? "" : tensors.place(0, ExpertPart::kDown).tensor;
  for (const std::string& name : tensors.names()) {
    parallel_for(std::ssize(kept), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        check_interrupt();
        if (!(refitted[at(i)] && name == down)) copy_part(name, kept[at(i)], i);
      }
    });
  }
}

void ExpertCheckpoint::finish(const Json& record) {
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    if (sliced_.contains(tensor.name) || separate_.contains(tensor.name) || left_out_.contains(tensor.name))
      continue;
    check_interrupt();
    writer_.write_bytes(tensor.name, model_.checkpoint().bytes(tensor));
    model_.checkpoint().release(tensor);
  }
  Json config = read_config_file(model_.checkpoint());
  bool said = false;
  for (const char* field : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    if (!config.contains(field)) continue;
    config[field] = keep_;
    said = true;
  }
  if (!said) config[config_of(experts_.begin()->first).count_field] = keep_;
  if (leaves_prediction_layers_out()) {
    for (const char* field : {"num_nextn_predict_layers", "num_mtp_layers"}) {
      if (config.contains(field)) config[field] = 0;
    }
  }
  writer_.write_file("config.json", config.dump(2) + "\n");
  writer_.write_file("swiftprune.json", record.dump(1) + "\n");
  const std::string plan_of_prune[] = {"plan.json"};
  writer_.copy_other_files(model_.checkpoint(), plan_of_prune);
  writer_.finish();
}

}  // namespace swiftprune
