#include "swiftprune/report/model_summary.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/masking/zero_scan.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

constexpr double kNoticeable = 0.01;  // models come with a few zeros of their own

LinearSummary summarize(const Checkpoint& checkpoint, const StoredWeights& stored,
                        const LinearTensors& linear, std::int64_t layer) {
  LinearSummary summary{linear.name + ".weight", layer, linear.outputs, linear.inputs, 0.0, "dense"};
  if (const auto packed = find_packed(checkpoint, summary.name, linear.outputs, linear.inputs)) {
    const bool grid = is_grid(packed->kind());
    summary.sparsity = 1.0 - (grid ? nonzero_share(*packed) : packed->density());
    summary.pattern = grid ? describe(packed->shape()) : std::string(name_of(packed->kind()));
    return summary;
  }
  const StoredWeights::Info info = stored.info(summary.name);
  const std::vector<std::byte> bytes = stored.bytes(summary.name);
  const ZeroScan scan = scan_zeros({bytes.data(), info.dtype, info.rows, info.cols, info.cols});
  stored.release(summary.name);
  summary.sparsity = scan.sparsity();
  if (const auto pattern = find_pattern(scan)) {
    summary.pattern = format(*pattern);
  } else if (summary.sparsity >= kNoticeable) {
    summary.pattern = "unstructured";
  }
  return summary;
}

Matrix load_stored(const Checkpoint& checkpoint, const std::string& name) {
  const StoredWeights stored(checkpoint);
  const StoredWeights::Info info = stored.info(name);
  Matrix weight(info.rows, info.cols);
  convert_to_f32(stored.bytes(name), info.dtype, weight.values());
  return weight;
}

std::string text_of(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>()
                           : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The arguments that repeat a run, as its record has them; none when it has none that a person could run. The
// file may come from anyone: what is not a plain command of swiftprune is not offered.
std::vector<std::string> arguments_of(const nlohmann::json& run) {
  const auto command = run.find("command");
  if (command == run.end() || !command->is_object()) return {};
  const auto list = command->find("arguments");
  if (list == command->end() || !list->is_array()) return {};
  std::vector<std::string> arguments;
  for (const nlohmann::json& item : *list) {
    if (!item.is_string() || has_control_characters(item.get_ref<const std::string&>())) return {};
    arguments.push_back(item);
  }
  if (arguments.size() < 2 || arguments.front() != "swiftprune") return {};
  return arguments;
}

// A run and, as "previous", the ones before it. The parser bounds the depth.
std::vector<ModelStep> steps_of(const nlohmann::json& record) {
  std::vector<ModelStep> steps;
  for (const nlohmann::json* run = &record; run != nullptr && run->is_object();) {
    ModelStep& step = steps.emplace_back();
    if (const auto method = run->find("method"); method != run->end()) step.method = text_of(*method);
    step.command = arguments_of(*run);
    const auto previous = run->find("previous");
    run = previous == run->end() ? nullptr : &*previous;
  }
  std::reverse(steps.begin(), steps.end());
  return steps;
}

void read_pack_record(const std::filesystem::path& folder, ModelSummary& summary) {
  const std::filesystem::path path = folder / kPackedRecordFile;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return;
  const nlohmann::json record = read_json_file(path);
  if (!record.is_object()) bad_input("{}: expected an object", path.string());
  const auto field = [&record](const char* name) {
    return record.contains(name) ? text_of(record[name]) : std::string("none");
  };
  std::string step = field("quantize") == "none" ? "pack" : "pack " + field("quantize");
  if (field("quantize_embeddings") != "none") step += ", embeddings " + field("quantize_embeddings");
  summary.steps.push_back({step, {}});
}

void read_record(const std::filesystem::path& folder, ModelSummary& summary) {
  const std::filesystem::path path = folder / "swiftprune.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return;
  const nlohmann::json record = read_json_file(path);
  if (!record.is_object()) bad_input("{}: expected an object", path.string());
  if (const auto method = record.find("method"); method != record.end()) summary.method = text_of(*method);
  if (const auto seconds = record.find("seconds"); seconds != record.end() && seconds->is_object()) {
    // Of prune, then what shrink has.
    for (const char* stage : {"text", "allocate", "load", "calibrate", "score", "select", "refine", "forward",
                              "solve", "write", "other"}) {
      const auto value = seconds->find(stage);
      if (value != seconds->end() && value->is_number()) summary.stage_seconds.emplace_back(stage, *value);
    }
  }
  if (const auto text = record.find("calibration"); text != record.end() && text->is_object()) {
    const auto member = [&](const char* key) { return text->contains(key) ? text_of((*text)[key]) : "?"; };
    if (member("windows") != "0") {
      summary.calibration = fmt::format("{} windows of {} tokens from {}", member("windows"),
                                        member("seqlen"), member("source"));
    }
  }
  summary.steps = steps_of(record);
  summary.prune_command = summary.steps.back().command;
}

}  // namespace

ModelSummary summarize_model(const Model& model, const std::string& folder) {
  const Checkpoint& checkpoint = model.checkpoint();
  ModelSummary summary;
  summary.folder = folder;
  summary.name = model_name(folder);
  summary.family = model.config().family;
  summary.packed = has_packed_tensors(checkpoint);
  for (const TensorInfo& info : checkpoint.tensors()) {
    summary.num_bytes += info.num_bytes();
    if (!info.name.ends_with(kPackedSuffix)) summary.num_parameters += info.numel();
  }
  const ModelConfig& config = model.config();
  for (const std::string& table : tables_of(config)) {
    if (checkpoint.find(table) == nullptr) summary.num_parameters += config.vocab_size * config.hidden_size;
  }
  std::map<std::string, std::int64_t> patterns;
  double zeros = 0.0, weights = 0.0, bytes = 0.0;
  const StoredWeights stored(checkpoint);
  const auto layers = static_cast<std::size_t>(config.num_layers());
  std::vector<double> layer_zeros(layers, 0.0), layer_weights(layers, 0.0);
  for (const BlockWeight& weight : block_weights(config)) {
    const LinearSummary& l =
        summary.linears.emplace_back(summarize(checkpoint, stored, weight.tensors, weight.layer));
    const auto size = static_cast<double>(l.rows * l.cols);
    layer_zeros[static_cast<std::size_t>(weight.layer)] += l.sparsity * size;
    layer_weights[static_cast<std::size_t>(weight.layer)] += size;
    const bool is_part = stored.part(l.name) != nullptr;
    if (checkpoint.find(l.name) == nullptr && !is_part) summary.num_parameters += l.rows * l.cols;
    if (l.pattern != "dense") ++patterns[l.pattern];
    for (const std::string& name : {l.name, l.name + kPackedSuffix}) {
      if (const TensorInfo* info = checkpoint.find(name)) bytes += static_cast<double>(info->num_bytes());
    }
  }
  for (const TensorInfo& tensor : checkpoint.tensors())
    if (stored.holds_parts(tensor.name)) bytes += static_cast<double>(tensor.num_bytes());
  if (const Adapter* adapter = model.adapter()) {
    summary.name += " + adapter";
    summary.num_parameters += adapter->num_parameters();
    summary.num_bytes += adapter->num_bytes();
    bytes += static_cast<double>(adapter->num_bytes());
  }
  for (std::size_t layer = 0; layer < layers; ++layer) {
    summary.block_sparsity.push_back(layer_zeros[layer] / layer_weights[layer]);
    zeros += layer_zeros[layer];
    weights += layer_weights[layer];
  }
  summary.sparsity = weights > 0.0 ? zeros / weights : 0.0;
  summary.bits_per_weight = weights > 0.0 ? 8.0 * bytes / weights : 0.0;
  summary.pattern = "dense";
  std::int64_t most = 0;
  for (const auto& [pattern, count] : patterns) {
    if (count > most) summary.pattern = pattern;
    most = std::max(most, count);
  }
  read_record(checkpoint.folder(), summary);
  if (summary.packed) read_pack_record(checkpoint.folder(), summary);
  return summary;
}

std::string steps_text(const ModelSummary& summary) {
  std::string text;
  for (const ModelStep& step : summary.steps) {
    if (!step.method.empty()) text += (text.empty() ? "" : ", ") + step.method;
  }
  if (text.empty()) text = summary.method;
  return text.empty() ? "–" : text;
}

MaskPicture picture_mask(const Model& model, const std::string& tensor) {
  for (const BlockWeight& of : block_weights(model.config())) {
    const LinearTensors& linear = of.tensors;
    if (of.name() != tensor) continue;
    const auto packed = find_packed(model.checkpoint(), tensor, linear.outputs, linear.inputs);
    const Matrix weight = packed ? unpack_f32(*packed) : load_stored(model.checkpoint(), tensor);
    MaskPicture picture{tensor, linear.outputs, linear.inputs, kMaskCorner, {}, {}};
    for (std::int64_t r = 0; r < std::min(kMaskCorner, linear.outputs); ++r) {
      auto& row = picture.corner.emplace_back();
      for (std::int64_t c = 0; c < std::min(kMaskCorner, linear.inputs); ++c) {
        row.push_back(weight.at(r, c) != 0.0f);
      }
    }
    const std::int64_t rows = std::min(kMaskTiles, linear.outputs),
                       cols = std::min(kMaskTiles, linear.inputs);
    picture.density = Matrix::zeros(rows, cols);
    Matrix counts = Matrix::zeros(rows, cols);
    for (std::int64_t r = 0; r < linear.outputs; ++r) {
      for (std::int64_t c = 0; c < linear.inputs; ++c) {
        const std::int64_t i = r * rows / linear.outputs, j = c * cols / linear.inputs;
        picture.density.at(i, j) += weight.at(r, c) != 0.0f ? 1.0f : 0.0f;
        counts.at(i, j) += 1.0f;
      }
    }
    for (std::size_t i = 0; i < counts.values().size(); ++i)
      picture.density.values()[i] /= counts.values()[i];
    return picture;
  }
  bad_usage(
      "--mask: found '{}', expected the weight of a block's linear; swiftprune inspect --tensors lists them",
      tensor);
}

}  // namespace swiftprune
