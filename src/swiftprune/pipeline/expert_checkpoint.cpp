#include "swiftprune/pipeline/expert_checkpoint.h"

#include <algorithm>
#include <fstream>
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

// A layer as the journal has it.
Json to_json(const ReducedLayer& layer) {
  const ExpertEvidence& e = layer.evidence;
  return {{"layer", e.layer},
          {"num_tokens", e.num_tokens},
          {"tokens", e.tokens},
          {"shares", e.shares},
          {"norms", e.norms},
          {"share_norms", e.share_norms},
          {"largest", e.largest},
          {"largest_residual", e.largest_residual},
          {"changes", e.changes},
          {"kept", layer.kept},
          {"super", layer.super},
          {"never", layer.never},
          {"not_refitted", layer.not_refitted},
          {"refitted", layer.refitted},
          {"change", layer.change},
          {"change_refitted", layer.change_refitted}};
}

// Throws nlohmann::json::exception for anything else.
ReducedLayer layer_of(const Json& line) {
  ReducedLayer layer;
  ExpertEvidence& e = layer.evidence;
  line.at("layer").get_to(e.layer);
  line.at("num_tokens").get_to(e.num_tokens);
  line.at("tokens").get_to(e.tokens);
  line.at("shares").get_to(e.shares);
  line.at("norms").get_to(e.norms);
  line.at("share_norms").get_to(e.share_norms);
  line.at("largest").get_to(e.largest);
  line.at("largest_residual").get_to(e.largest_residual);
  line.at("changes").get_to(e.changes);
  line.at("kept").get_to(layer.kept);
  line.at("super").get_to(layer.super);
  line.at("never").get_to(layer.never);
  line.at("not_refitted").get_to(layer.not_refitted);
  line.at("refitted").get_to(layer.refitted);
  line.at("change").get_to(layer.change);
  line.at("change_refitted").get_to(layer.change_refitted);
  return layer;
}

}  // namespace

ExpertCheckpoint::ExpertCheckpoint(const Model& model, std::int64_t keep, const fs::path& folder,
                                   Leftover leftover, std::uint64_t max_shard_bytes)
    : model_(model), keep_(keep), writer_(folder, plan(max_shard_bytes), leftover) {
  if (leftover == Leftover::kContinue) writer_.keep_when_unfinished();
}

std::optional<ExpertCheckpoint::Unfinished> ExpertCheckpoint::unfinished() const {
  if (!writer_.continues()) return std::nullopt;
  std::ifstream file(writer_.temporary_folder() / JournalLines::kFileName);
  Unfinished run;
  auto next = experts_.begin();
  auto head = read_journal_lines(file, [&](const Json& line) {
    ReducedLayer layer = layer_of(line);
    // Only an unbroken series of layers with experts, each with as many kept as now, can be gone on from.
    const bool fits = next != experts_.end() && layer.evidence.layer == next->first &&
                      std::ssize(layer.kept) == keep_ && layer.refitted.size() == layer.kept.size() &&
                      std::ranges::all_of(layer.kept, [&](std::int64_t e) {
                        return e >= 0 && e < config_of(next->first).count;
                      });
    if (!fits) return false;
    ++next;
    run.layers.push_back(std::move(layer));
    return true;
  });
  if (!head) return std::nullopt;
  run.identity = std::move(*head);
  return run;
}

void ExpertCheckpoint::start_journal(const Json& identity, std::span<const ReducedLayer> layers) {
  const auto sync = [this] { writer_.sync(); };
  if (layers.empty()) {
    journal_.emplace(writer_.temporary_folder(), identity, sync);
    return;
  }
  for (const ReducedLayer& layer : layers) {
    for (const std::string& name : tensors_of(layer.evidence.layer)) writer_.mark_written(name);
  }
  finished_layers_ = std::ssize(layers);
  journal_.emplace(writer_.temporary_folder(), sync);
}

std::int64_t ExpertCheckpoint::keep_finished() {
  if (journal_) journal_->flush();
  return finished_layers_;
}

void ExpertCheckpoint::finish_layer(const ReducedLayer& layer) {
  ++finished_layers_;
  if (journal_) journal_->add(to_json(layer));
}

std::vector<std::string> ExpertCheckpoint::tensors_of(std::int64_t layer) const {
  const ExpertTensors& tensors = experts_.at(layer);
  const RouterConfig& router = config_of(layer).router;
  std::vector<std::string> names;
  for (const std::string& name : {router.weight, router.bias, router.correction_bias}) {
    if (!name.empty()) names.push_back(name);
  }
  if (tensors.form() != ExpertForm::kSeparate) {
    names.insert(names.end(), tensors.names().begin(), tensors.names().end());
    return names;
  }
  for (std::int64_t e = 0; e < keep_; ++e) {
    const std::vector<std::string> of_expert = tensors.names_of(e);
    names.insert(names.end(), of_expert.begin(), of_expert.end());
  }
  return names;
}

Matrix ExpertCheckpoint::read_down(std::int64_t layer, std::int64_t index) {
  const ExpertTensors::Place place = experts_.at(layer).place(index, ExpertPart::kDown);
  const std::int64_t rows = model_.config().hidden_size, cols = config_of(layer).width;
  const DType dtype = model_.checkpoint().at(place.tensor).dtype;
  std::vector<std::byte> bytes(at(rows * cols * size_of(dtype)));
  writer_.read_bytes_part(place.tensor, place.first, bytes);
  Matrix stored = place.column != 1 ? Matrix(cols, rows) : Matrix(rows, cols);
  convert_to_f32(bytes, dtype, stored.values());
  if (place.column == 1) return stored;
  Matrix down(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) down.at(r, c) = stored.at(c, r);
  }
  return down;
}

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
  Json whole = read_config_file(model_.checkpoint());
  Json& config = whole.contains("text_config") ? whole["text_config"] : whole;
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
  writer_.write_file("config.json", whole.dump(2) + "\n");
  writer_.write_file("swiftprune.json", record.dump(1) + "\n");
  const std::string plan_of_prune[] = {"plan.json"};
  writer_.copy_other_files(model_.checkpoint(), plan_of_prune);
  journal_.reset();
  fs::remove(writer_.temporary_folder() / JournalLines::kFileName);  // from here on nothing is stopped
  writer_.finish();
}

}  // namespace swiftprune
