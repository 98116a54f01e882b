#include "swiftprune/pipeline/narrow_checkpoint.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// [cols, rows]
Matrix turned(ConstMatrixView m) {
  Matrix result(m.cols, m.rows);
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) result.at(c, r) = m.at(r, c);
  }
  return result;
}

}  // namespace

NarrowCheckpoint::NarrowCheckpoint(const Model& model, std::int64_t width,
                                   const std::filesystem::path& folder, std::uint64_t max_shard_bytes)
    : model_(model), width_(width), writer_(folder, plan(max_shard_bytes)) {}

// The shapes of the experts' tensors with the new width.
void NarrowCheckpoint::add_shapes(const ExpertTensors& tensors, const ExpertsConfig& experts) {
  const std::int64_t hidden = model_.config().hidden_size, both = 2 * width_;
  const auto name_of_part = [&](std::int64_t e, ExpertPart part) { return tensors.place(e, part).tensor; };
  const auto bias = [&](std::int64_t e, ExpertPart part) {
    const std::string name = tensors.bias_name(e, part);
    if (name.empty()) return;
    const bool fused = model_.checkpoint().at(name).shape.size() == 2;
    shapes_[name] = fused ? std::vector{experts.count, both} : std::vector{width_};
  };
  if (tensors.form() != ExpertForm::kSeparate) {
    const bool by_input = tensors.form() == ExpertForm::kFusedByInput;
    shapes_[name_of_part(0, ExpertPart::kGate)] = {experts.count, by_input ? hidden : both,
                                                   by_input ? both : hidden};
    shapes_[name_of_part(0, ExpertPart::kDown)] = {experts.count, by_input ? width_ : hidden,
                                                   by_input ? hidden : width_};
    return bias(0, ExpertPart::kGate);
  }
  for (std::int64_t e = 0; e < experts.count; ++e) {
    for (const ExpertPart part : inner_parts_of(experts)) {
      shapes_[name_of_part(e, part)] = {width_, hidden};
      bias(e, part);
    }
    shapes_[name_of_part(e, ExpertPart::kDown)] = {hidden, width_};
  }
}

std::vector<PlannedTensor> NarrowCheckpoint::plan(std::uint64_t max_shard_bytes) {
  const ModelConfig& m = model_.config();
  for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
    const BlockConfig& block = m.blocks[at(layer)];
    if (!block.experts) continue;
    add_shapes(experts_.try_emplace(layer, model_.checkpoint(), *block.experts, m.hidden_size).first->second,
               *block.experts);
  }
  std::vector<PlannedTensor> planned;
  bool single = true;
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    single = single && tensor.file == kSafetensorsFile;
    const auto narrow = shapes_.find(tensor.name);
    planned.push_back({tensor.name, tensor.dtype, narrow != shapes_.end() ? narrow->second : tensor.shape,
                       kSafetensorsFile});
    const auto& shape = planned.back().shape;
    num_parameters_ += std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  if (!single) assign_shards(planned, max_shard_bytes);
  return planned;
}

void NarrowCheckpoint::write(std::int64_t layer, std::int64_t expert, std::span<const std::int64_t> kept,
                             ConstMatrixView down) {
  expect(std::ssize(kept) == width_ && down.cols == width_, "write: as many channels as planned");
  const ExpertTensors& tensors = experts_.at(layer);
  write_gate_and_up(tensors, expert, kept);
  write_biases(tensors, expert, kept);
  const ExpertTensors::Place place = tensors.place(expert, ExpertPart::kDown, width_);
  const Matrix stored = place.column == 1 ? copy_of(down) : turned(down);
  writer_.write_part(place.tensor, place.first, stored.values());
}

void NarrowCheckpoint::write_gate_and_up(const ExpertTensors& tensors, std::int64_t expert,
                                         std::span<const std::int64_t> kept) {
  std::vector<Matrix> parts;
  for (const ExpertPart part : inner_parts_of(tensors.experts())) {
    parts.push_back(take_rows(tensors.load(expert, part, WeightUse::kFloat).weight.view(), kept));
    const ExpertTensors::Place place = tensors.place(expert, part, width_);
    if (place.column == 1) writer_.write_part(place.tensor, place.first, parts.back().values());
  }
  if (tensors.form() != ExpertForm::kFusedByInput) return;
  Matrix both(parts[0].cols(), 2 * width_);  // [hidden, gate and up in turn]
  for (std::int64_t h = 0; h < both.rows(); ++h) {
    for (std::int64_t c = 0; c < width_; ++c) {
      both.at(h, 2 * c) = parts[0].at(c, h);
      both.at(h, 2 * c + 1) = parts[1].at(c, h);
    }
  }
  const ExpertTensors::Place place = tensors.place(expert, ExpertPart::kGate, width_);
  writer_.write_part(place.tensor, place.first, both.values());
}

void NarrowCheckpoint::write_biases(const ExpertTensors& tensors, std::int64_t expert,
                                    std::span<const std::int64_t> kept) {
  const std::string fused = tensors.bias_name(expert, ExpertPart::kUp);
  if (fused.empty()) return;
  const bool together = fused == tensors.bias_name(expert, ExpertPart::kGate);
  const bool in_turn = tensors.experts().fused_by_input;
  std::vector<float> both(at(2 * width_));
  std::int64_t i = 0;
  for (const ExpertPart part : inner_parts_of(tensors.experts())) {
    const std::vector<float> bias = tensors.load_bias(expert, part);
    std::vector<float> own;
    for (const std::int64_t c : kept) own.push_back(bias[at(c)]);
    if (!together) writer_.write_part(tensors.bias_name(expert, part), 0, own);
    for (std::int64_t c = 0; c < width_; ++c) both[at(in_turn ? 2 * c + i : i * width_ + c)] = own[at(c)];
    ++i;
  }
  if (together) writer_.write_part(fused, expert * 2 * width_, both);
}

void NarrowCheckpoint::finish(const nlohmann::ordered_json& record) {
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    if (shapes_.contains(tensor.name)) continue;
    check_interrupt();
    writer_.write_bytes(tensor.name, model_.checkpoint().bytes(tensor));
    model_.checkpoint().release(tensor);
  }
  nlohmann::ordered_json whole = read_config_file(model_.checkpoint());
  auto& config = whole.contains("text_config") ? whole["text_config"] : whole;
  config[experts_of(model_.config())->width_field] = width_;
  writer_.write_file("config.json", whole.dump(2) + "\n");
  writer_.write_file("swiftprune.json", record.dump(1) + "\n");
  const std::string plan_of_prune[] = {"plan.json"};
  writer_.copy_other_files(model_.checkpoint(), plan_of_prune);
  writer_.finish();
}

}  // namespace swiftprune
