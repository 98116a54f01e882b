#include "swiftprune/pipeline/narrow_checkpoint.h"

#include <string>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune {
namespace {}  // namespace

NarrowCheckpoint::NarrowCheckpoint(const Model& model, std::int64_t width,
                                   const std::filesystem::path& folder, std::uint64_t max_shard_bytes)
    : width_(width), folder_(model), writer_(folder, plan(max_shard_bytes)) {}

// The shapes of the experts' tensors with the new width.
void NarrowCheckpoint::add_shapes(const ExpertTensors& tensors, const ExpertsConfig& experts) {
  const std::int64_t hidden = folder_.model().config().hidden_size, both = 2 * width_;
  const auto name_of_part = [&](std::int64_t e, ExpertPart part) { return tensors.place(e, part).tensor; };
  const auto bias = [&](std::int64_t e, ExpertPart part) {
    const std::string name = tensors.bias_name(e, part);
    if (name.empty()) return;
    const bool fused = folder_.model().checkpoint().at(name).shape.size() == 2;
    folder_.reshape(name, fused ? std::vector{experts.count, both} : std::vector{width_});
  };
  if (tensors.form() != ExpertForm::kSeparate) {
    const bool by_input = tensors.form() == ExpertForm::kFusedByInput;
    folder_.reshape(name_of_part(0, ExpertPart::kGate),
                    {experts.count, by_input ? hidden : both, by_input ? both : hidden});
    folder_.reshape(name_of_part(0, ExpertPart::kDown),
                    {experts.count, by_input ? width_ : hidden, by_input ? hidden : width_});
    return bias(0, ExpertPart::kGate);
  }
  for (std::int64_t e = 0; e < experts.count; ++e) {
    for (const ExpertPart part : inner_parts_of(experts)) {
      folder_.reshape(name_of_part(e, part), {width_, hidden});
      bias(e, part);
    }
    folder_.reshape(name_of_part(e, ExpertPart::kDown), {hidden, width_});
  }
}

std::vector<PlannedTensor> NarrowCheckpoint::plan(std::uint64_t max_shard_bytes) {
  for (const auto& [layer, tensors] : folder_.layers()) add_shapes(tensors, folder_.config_of(layer));
  return folder_.plan(max_shard_bytes);
}

void NarrowCheckpoint::write(std::int64_t layer, std::int64_t expert, std::span<const std::int64_t> kept,
                             ConstMatrixView down) {
  expect(std::ssize(kept) == width_ && down.cols == width_, "write: as many channels as planned");
  const ExpertTensors& tensors = folder_.tensors_of(layer);
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
  const std::string& field = experts_of(folder_.model().config())->width_field;
  folder_.copy_rest(writer_);
  folder_.write_rest([&](nlohmann::ordered_json& config) { config[field] = width_; }, record, writer_);
  writer_.finish();
}

}  // namespace swiftprune
