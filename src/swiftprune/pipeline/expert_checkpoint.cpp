#include "swiftprune/pipeline/expert_checkpoint.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/model/layer_sizes.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

// Writing to one file is one thread's at a time; more of them than files that are written at once wait for each other.
constexpr std::int64_t kCopyThreads = 4;
constexpr std::size_t kMostRunning = 2 * kCopyThreads;  // each holds up to one expert's down projection

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
          {"mean_residual", e.mean_residual},
          {"changes", e.changes},
          {"kept", layer.kept},
          {"super", layer.super},
          {"never", layer.never},
          {"not_refitted", layer.not_refitted},
          {"refitted", layer.refitted},
          {"biased", layer.biased},
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
  line.at("mean_residual").get_to(e.mean_residual);
  line.at("changes").get_to(e.changes);
  line.at("kept").get_to(layer.kept);
  line.at("super").get_to(layer.super);
  line.at("never").get_to(layer.never);
  line.at("not_refitted").get_to(layer.not_refitted);
  line.at("refitted").get_to(layer.refitted);
  line.at("biased").get_to(layer.biased);
  line.at("change").get_to(layer.change);
  line.at("change_refitted").get_to(layer.change_refitted);
  return layer;
}

std::map<std::int64_t, std::int64_t> by_layer(const ExpertFolder& folder, const ExpertCounts& keep) {
  std::map<std::int64_t, std::int64_t> result;
  for (const auto& [layer, tensors] : folder.layers()) result.emplace(layer, keep.of(result.size()));
  return result;
}

}  // namespace

std::string layers_text(std::span<const ReducedLayer> layers) {
  Json lines = Json::array();
  for (const ReducedLayer& layer : layers) lines.push_back(to_json(layer));
  return lines.dump();
}

std::vector<ReducedLayer> layers_of_text(const std::string& text) {
  std::vector<ReducedLayer> layers;
  for (const Json& line : Json::parse(text)) layers.push_back(layer_of(line));
  return layers;
}

ExpertCheckpoint::ExpertCheckpoint(const Model& model, const ExpertCounts& keep, const fs::path& folder,
                                   Leftover leftover, const std::string& joined,
                                   std::uint64_t max_shard_bytes)
    : model_(model),
      folder_(model),
      keep_(by_layer(folder_, keep)),
      writer_(folder, plan(max_shard_bytes), leftover, joined) {
  if (leftover == Leftover::kContinue) writer_.keep_when_unfinished();
}

std::optional<ExpertCheckpoint::Unfinished> ExpertCheckpoint::unfinished() const {
  if (!writer_.continues()) return std::nullopt;
  std::ifstream file(writer_.temporary_folder() / JournalLines::kFileName);
  Unfinished run;
  auto next = keep_.begin();
  auto head = read_journal_lines(file, [&](const Json& line) {
    ReducedLayer layer = layer_of(line);
    // Only an unbroken series of layers with experts, each with as many kept as now, can be gone on from.
    const bool fits = next != keep_.end() && layer.evidence.layer == next->first &&
                      std::ssize(layer.kept) == next->second && layer.refitted.size() == layer.kept.size() &&
                      layer.biased.size() == layer.kept.size() &&
                      std::ranges::all_of(layer.kept, [&](std::int64_t e) {
                        return e >= 0 && e < folder_.config_of(next->first).count;
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

std::optional<Json> ExpertCheckpoint::unfinished_identity(const fs::path& folder) {
  std::ifstream file(partial_folder(folder) / JournalLines::kFileName);
  return read_journal_lines(file, [](const Json&) { return false; });
}

void ExpertCheckpoint::start_journal(const Json& identity, std::span<const ReducedLayer> layers,
                                     std::function<std::int64_t()> on_disk) {
  const auto sync = [this] { writer_.sync(); };
  mark_finished(layers);
  if (layers.empty()) {
    journal_.emplace(writer_.temporary_folder(), identity, sync, std::move(on_disk));
  } else {
    journal_.emplace(writer_.temporary_folder(), sync, std::move(on_disk));
  }
}

void ExpertCheckpoint::start_peer_journal(int rank, std::span<const ReducedLayer> layers) {
  mark_finished(layers);
  peer_journal_.emplace(writer_.temporary_folder(), rank, [this] { writer_.sync(); });
}

void ExpertCheckpoint::mark_finished(std::span<const ReducedLayer> layers) {
  for (const ReducedLayer& layer : layers) {
    for (const std::string& name : tensors_of(layer.evidence.layer)) {
      if (writer_.writes(name)) writer_.mark_written(name);
    }
  }
  finished_layers_ = std::ssize(layers);
}

std::int64_t ExpertCheckpoint::keep_finished() {
  try {
    settle();
  } catch (const Error&) {  // told already, or of a layer that is not among the finished
  }
  if (journal_) journal_->flush();
  return finished_layers_;
}

void ExpertCheckpoint::finish_layer(const ReducedLayer& layer) { whole_ = to_json(layer); }

template <class Work>
void ExpertCheckpoint::beside(Work work) {
  if (running_.size() == kMostRunning) {
    std::future<void> first = std::move(running_.front());
    running_.pop_front();
    first.get();
  }
  RunContext context = current_run();
  context.stop = {};  // what is begun is finished, so that a layer is kept
  running_.push_back(std::async(std::launch::async, [work = std::move(work), context] {
    const RunScope scope(context);
    set_num_threads(1);  // there are several of these
    work();
  }));
}

void ExpertCheckpoint::settle() {
  while (!running_.empty()) {
    std::future<void> first = std::move(running_.front());
    running_.pop_front();
    first.get();
  }
  if (!whole_) return;
  ++finished_layers_;
  if (journal_) journal_->add(*whole_);
  if (peer_journal_) peer_journal_->add();
  whole_.reset();
}

std::vector<std::string> ExpertCheckpoint::shared_tensors_of(std::int64_t layer) const {
  const ExpertTensors& tensors = folder_.tensors_of(layer);
  const RouterConfig& router = folder_.config_of(layer).router;
  std::vector<std::string> names;
  for (const std::string& name : {router.weight, router.bias, router.correction_bias}) {
    if (!name.empty()) names.push_back(name);
  }
  if (tensors.form() != ExpertForm::kSeparate)
    names.insert(names.end(), tensors.names().begin(), tensors.names().end());
  return names;
}

std::vector<std::string> ExpertCheckpoint::tensors_of(std::int64_t layer) const {
  const ExpertTensors& tensors = folder_.tensors_of(layer);
  std::vector<std::string> names = shared_tensors_of(layer);
  if (tensors.form() != ExpertForm::kSeparate) return names;
  for (std::int64_t e = 0; e < keep_.at(layer); ++e) {
    const std::vector<std::string> of_expert = tensors.names_of(e);
    names.insert(names.end(), of_expert.begin(), of_expert.end());
  }
  return names;
}

Matrix ExpertCheckpoint::read_down(std::int64_t layer, std::int64_t index) {
  const ExpertTensors::Place place = folder_.tensors_of(layer).place(index, ExpertPart::kDown);
  const std::int64_t rows = model_.config().hidden_size, cols = folder_.config_of(layer).width;
  const DType dtype = model_.checkpoint().at(place.tensor).dtype;
  std::vector<std::byte> bytes(at(rows * cols * size_of(dtype)));
  writer_.read_bytes_part(place.tensor, place.first, bytes);
  Matrix stored = place.column != 1 ? Matrix(cols, rows) : Matrix(rows, cols);
  convert_to_f32(bytes, dtype, stored.values());
  return place.column == 1 ? std::move(stored) : turned(stored.view());
}

void ExpertCheckpoint::plan_layer(std::int64_t layer, std::int64_t keep) {
  const Checkpoint& source = model_.checkpoint();
  for (const std::string& name : shared_tensors_of(layer)) {
    std::vector<std::int64_t> shape = source.at(name).shape;
    shape.front() = keep;
    folder_.reshape(name, std::move(shape));
  }
  const ExpertTensors& tensors = folder_.tensors_of(layer);
  if (tensors.form() != ExpertForm::kSeparate) return;
  for (std::int64_t e = 0; e < folder_.config_of(layer).count; ++e) {
    for (const std::string& name : tensors.names_of(e)) {
      if (e < keep) {
        folder_.reshape(name, source.at(name).shape);
      } else {
        folder_.leave_out(name);  // its index is no longer there
      }
    }
  }
}

std::vector<PlannedTensor> ExpertCheckpoint::plan(std::uint64_t max_shard_bytes) {
  for (const auto& [layer, keep] : keep_) plan_layer(layer, keep);
  const ModelConfig& m = model_.config();
  const std::string further = fmt::format("{}{}.", layers_prefix(m), m.num_layers());
  for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
    if (!tensor.name.starts_with(further)) continue;
    folder_.leave_out(tensor.name);
    leaves_prediction_layers_out_ = true;
  }
  return folder_.plan(max_shard_bytes);
}

void ExpertCheckpoint::write_down(std::int64_t layer, std::int64_t index, ConstMatrixView weight) {
  if (whole_) settle();
  const ExpertTensors& tensors = folder_.tensors_of(layer);
  const ExpertTensors::Place place = tensors.place(index, ExpertPart::kDown);
  beside([this, place, stored = place.column == 1 ? copy_of(weight) : turned(weight)] {
    writer_.write_part(place.tensor, place.first, stored.values());
  });
}

std::pair<std::string, std::int64_t> ExpertCheckpoint::bias_place(std::int64_t layer,
                                                                  std::int64_t index) const {
  const std::string name = folder_.tensors_of(layer).bias_name(index, ExpertPart::kDown);
  const bool of_all =
      !name.empty() && name == folder_.tensors_of(layer).bias_name(index + 1, ExpertPart::kDown);
  return {name, of_all ? index * model_.config().hidden_size : 0};
}

void ExpertCheckpoint::write_bias(std::int64_t layer, std::int64_t index, std::span<const float> bias) {
  if (whole_) settle();
  const auto [name, first] = bias_place(layer, index);
  writer_.write_part(name, first, bias);
}

std::vector<float> ExpertCheckpoint::read_bias(std::int64_t layer, std::int64_t index) {
  const auto [name, first] = bias_place(layer, index);
  const DType dtype = model_.checkpoint().at(name).dtype;
  std::vector<float> bias(at(model_.config().hidden_size));
  std::vector<std::byte> bytes(bias.size() * at(size_of(dtype)));
  writer_.read_bytes_part(name, first, bytes);
  convert_to_f32(bytes, dtype, bias);
  return bias;
}

void ExpertCheckpoint::copy_slices(const std::string& name, std::span<const std::int64_t> kept) {
  for (std::size_t i = 0; i < kept.size(); ++i) copy_part(name, kept[i], static_cast<std::int64_t>(i));
}

void ExpertCheckpoint::copy_part(const std::string& name, std::int64_t expert, std::int64_t index) {
  if (!writer_.writes(name)) return;
  const TensorInfo& tensor = model_.checkpoint().at(name);
  const std::int64_t numel = tensor.numel() / tensor.shape.front();
  std::vector<std::byte> own;
  writer_.write_bytes_part(name, index * numel, model_.checkpoint().bytes_of_part(tensor, expert, 1, own));
}

void ExpertCheckpoint::copy_separate(const KeptExperts& layer, std::size_t index) {
  const ExpertTensors& tensors = folder_.tensors_of(layer.layer);
  const auto place = static_cast<std::int64_t>(index);
  const std::vector<std::string> from = tensors.names_of(layer.kept[index]);
  const std::vector<std::string> to = tensors.names_of(place);
  const std::string down = tensors.place(place, ExpertPart::kDown).tensor;
  const std::string bias = bias_place(layer.layer, place).first;
  for (std::size_t part = 0; part < from.size(); ++part) {
    const bool written =
        (layer.refitted[index] && to[part] == down) || (layer.biased[index] && to[part] == bias);
    if (written || !writer_.writes(to[part])) continue;
    const TensorInfo& tensor = model_.checkpoint().at(from[part]);
    if (tensor.dtype != model_.checkpoint().at(to[part]).dtype) {
      bad_input("{}: tensor {}: found {}, expected {} as of {}: one dtype for all experts",
                model_.checkpoint().folder().string(), tensor.name, name_of(tensor.dtype),
                name_of(model_.checkpoint().at(to[part]).dtype), to[part]);
    }
    writer_.write_bytes(to[part], model_.checkpoint().bytes(tensor));
  }
  tensors.release(layer.kept[index]);
}

void ExpertCheckpoint::keep(const ReducedLayer& layer) {
  const KeptExperts kept{layer.evidence.layer, layer.kept, layer.refitted, layer.biased};
  const std::size_t count = at(keep_.at(kept.layer));
  expect(kept.kept.size() == count && kept.refitted.size() == count && kept.biased.size() == count,
         "keep: as many as planned");
  if (whole_) settle();
  for (std::int64_t lane = 0; lane < kCopyThreads; ++lane)
    beside([this, kept, lane] { copy_kept(kept, lane); });
}

void ExpertCheckpoint::copy_kept(const KeptExperts& layer, std::int64_t lane) {
  const ExpertTensors& tensors = folder_.tensors_of(layer.layer);
  const ExpertForm form = tensors.form();
  const bool one_piece = form == ExpertForm::kFused || form == ExpertForm::kFusedByInput;
  const std::string down = one_piece ? tensors.place(0, ExpertPart::kDown).tensor : "";
  const std::string bias = bias_place(layer.layer, 0).first;
  if (lane == 0) {
    const RouterConfig& router = folder_.config_of(layer.layer).router;
    for (const std::string& name : {router.weight, router.bias, router.correction_bias}) {
      if (!name.empty()) copy_slices(name, layer.kept);
    }
  }
  for (std::size_t i = at(lane); i < layer.kept.size(); i += at(kCopyThreads)) {
    if (form == ExpertForm::kSeparate) {
      copy_separate(layer, i);
      continue;
    }
    for (const std::string& name : tensors.names()) {
      const bool written = (layer.refitted[i] && name == down) || (layer.biased[i] && name == bias);
      if (!written) copy_part(name, layer.kept[i], static_cast<std::int64_t>(i));
    }
  }
}

// The number under every name that config.json has for it; of layers that differ the largest, and the list beside it.
void ExpertCheckpoint::write_counts(Json& config) const {
  std::int64_t largest = 0, smallest = std::numeric_limits<std::int64_t>::max();
  for (const auto& [layer, keep] : keep_) {
    largest = std::max(largest, keep);
    smallest = std::min(smallest, keep);
  }
  bool said = false;
  for (const char* field : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    if (!config.contains(field)) continue;
    config[field] = largest;
    said = true;
  }
  if (!said) config[folder_.config_of(keep_.begin()->first).count_field] = largest;
  if (smallest == largest) return;
  Json list = Json::array();
  for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
    const auto keep = keep_.find(layer);
    list.push_back(keep == keep_.end() ? 0 : keep->second);
  }
  config[std::string(kLayerSizesField)] = {{std::string(kLayerExperts), std::move(list)}};
}

void ExpertCheckpoint::copy_rest() {
  settle();
  if (!std::exchange(copied_, true)) folder_.copy_rest(writer_);
}

void ExpertCheckpoint::finish(const Json& record) {
  copy_rest();
  const auto edit = [&](Json& config) {
    write_counts(config);
    if (!leaves_prediction_layers_out_) return;
    for (const char* field : {"num_nextn_predict_layers", "num_mtp_layers"}) {
      if (config.contains(field)) config[field] = 0;
    }
  };
  folder_.write_rest(edit, record, writer_);
  journal_.reset();
  fs::remove(writer_.temporary_folder() / JournalLines::kFileName);  // from here on nothing is stopped
  writer_.finish();
}

}  // namespace swiftprune
