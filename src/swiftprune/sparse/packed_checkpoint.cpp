#include "swiftprune/sparse/packed_checkpoint.h"

#include <array>
#include <cstring>
#include <map>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/checkpoint/model_card.h"
#include "swiftprune/checkpoint/tensor_names.h"
#include "swiftprune/core/error.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_header.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

std::string where(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  return (checkpoint.folder() / tensor.file).string() + ": tensor " + tensor.name;
}

void check_is_bytes(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  if (tensor.dtype != DType::kU8 || tensor.shape.size() != 1) {
    bad_input("{}: found {} of rank {}, expected U8 of rank 1", where(checkpoint, tensor),
              name_of(tensor.dtype), tensor.shape.size());
  }
}

PackedTensor parse(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  check_is_bytes(checkpoint, tensor);
  return PackedTensor::parse(checkpoint.bytes(tensor), where(checkpoint, tensor), nullptr);
}

// A copy: the mapped bytes need not be aligned to two.
std::vector<std::uint16_t> bits_of(std::span<const std::byte> bytes) {
  std::vector<std::uint16_t> bits(bytes.size() / sizeof(std::uint16_t));
  std::memcpy(bits.data(), bytes.data(), bits.size() * sizeof(std::uint16_t));
  return bits;
}

bool is_packed_name(const std::string& name) { return name.ends_with(".weight.packed"); }

void report(const ProgressFn& progress, std::string_view stage, std::size_t done, std::size_t total) {
  check_interrupt();
  if (progress) progress(stage, static_cast<std::int64_t>(done), static_cast<std::int64_t>(total));
}

// Decides the format of every weight; nothing is written yet, so that the files' sizes are known first.
PackReport measure(const Checkpoint& source, const WeightParts& parts, std::span<const std::string> weights,
                   const PackOptions& options) {
  PackReport result;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    report(options.progress, "measure", i, weights.size());
    const WeightParts::Info info = parts.info(weights[i]);
    if (info.dtype != DType::kBF16 && info.dtype != DType::kF16) {
      result.left.push_back(weights[i]);
      continue;
    }
    const std::vector<std::uint16_t> bits = bits_of(parts.bytes(weights[i]));
    std::int64_t nonzero = 0;
    for (const std::uint16_t b : bits) nonzero += b != 0 ? 1 : 0;
    const FormatSize best = formats_for({bits, info.rows, info.cols, info.dtype}, options.quantize).front();
    result.linears.push_back({weights[i], best.format, info.num_bytes(), best.num_bytes,
                              static_cast<double>(nonzero) / static_cast<double>(info.numel())});
    result.dense_bytes += info.num_bytes();
    result.packed_bytes += best.num_bytes;
    parts.release(weights[i]);
  }
  report(options.progress, "measure", weights.size(), weights.size());
  for (const TensorInfo& tensor : source.tensors()) {
    result.source_bytes += tensor.num_bytes();
    if (!parts.holds_parts(tensor.name)) result.target_bytes += tensor.num_bytes();
  }
  for (const std::string& name : parts.part_names()) result.target_bytes += parts.info(name).num_bytes();
  result.target_bytes += result.packed_bytes - result.dense_bytes;
  if (options.table_bits == 0) return result;
  for (const std::string& name : options.tables) {
    const PackedLinear& table = result.tables.emplace_back(measure_table(source, name, options.table_bits));
    result.target_bytes += table.packed_bytes - table.dense_bytes;
  }
  return result;
}

PackedTensor pack_linear(const WeightParts& parts, const std::string& name, const PackFormat& format) {
  const WeightParts::Info info = parts.info(name);
  const std::vector<std::uint16_t> bits = bits_of(parts.bytes(name));
  return pack({bits, info.rows, info.cols, info.dtype}, format);
}

// Readers that follow config.json's dtype must not round the F32 tensors that grids become.
std::string float32_config(const Checkpoint& source) {
  nlohmann::ordered_json whole = read_config_file(source);
  bool named = false;
  const auto set = [&named](nlohmann::ordered_json& config) {
    for (const char* field : {"torch_dtype", "dtype"}) {
      if (!config.contains(field)) continue;
      config[field] = "float32";
      named = true;
    }
  };
  set(whole);
  if (whole.contains("text_config") && whole["text_config"].is_object()) set(whole["text_config"]);
  if (!named) whole["torch_dtype"] = "float32";
  return whole.dump(2) + "\n";
}

}  // namespace

PackedLinear measure_table(const Checkpoint& source, const std::string& name, int bits) {
  const TensorInfo& tensor = source.at(name);
  if (tensor.shape.size() != 2 || tensor.numel() == 0) {
    bad_input("{}: found rank {}, expected a matrix", where(source, tensor), tensor.shape.size());
  }
  const PackedShape shape = packed_table_shape(tensor.shape[0], tensor.shape[1], bits);
  return {name, {shape.kind}, tensor.num_bytes(), sections_of(shape).num_bytes, 1.0};
}

nlohmann::ordered_json packed_record(const PackReport& report, const PackOptions& options) {
  nlohmann::ordered_json record = {{"format", "swiftprune packed model"},
                                   {"format_version", 1},
                                   {"swiftprune", SWIFTPRUNE_VERSION},
                                   {"quantize", name_of(options.quantize)}};
  if (options.table_bits != 0) record["quantize_embeddings"] = fmt::format("int{}", options.table_bits);
  record["packed_tensors"] = report.linears.size() + report.tables.size();
  record["dense_bytes"] = report.dense_bytes;
  record["packed_bytes"] = report.packed_bytes;
  return record;
}

PackedTensor pack_table(const Checkpoint& checkpoint, const std::string& name, int bits) {
  const TensorInfo& tensor = checkpoint.at(name);
  const Matrix table = checkpoint.load_matrix(name, tensor.shape.at(0), tensor.shape.at(1));
  return pack(quantize_table(table.view(), bits, where(checkpoint, tensor)), {PackedKind::kDenseGrid});
}

std::string packed_config(const Checkpoint& source) {
  nlohmann::ordered_json config = read_config_file(source);
  name_packed_type(config);
  return config.dump(2) + "\n";
}

std::optional<PackedTensor> find_packed(const Checkpoint& checkpoint, const std::string& weight_name,
                                        std::int64_t rows, std::int64_t cols) {
  const TensorInfo* tensor = checkpoint.find(weight_name + kPackedSuffix);
  if (tensor == nullptr) return std::nullopt;
  PackedTensor packed = parse(checkpoint, *tensor);
  if (packed.rows() != rows || packed.cols() != cols) {
    bad_input("{}: found shape [{}, {}], expected [{}, {}] as config.json says", where(checkpoint, *tensor),
              packed.rows(), packed.cols(), rows, cols);
  }
  return packed;
}

std::optional<PackedShape> find_packed_shape(const Checkpoint& checkpoint, const std::string& weight_name) {
  const TensorInfo* tensor = checkpoint.find(weight_name + kPackedSuffix);
  if (tensor == nullptr) return std::nullopt;
  check_is_bytes(checkpoint, *tensor);
  return read_packed_shape(checkpoint.bytes(*tensor), where(checkpoint, *tensor));
}

std::optional<PackedTensor> pack_dense(const Checkpoint& checkpoint, const std::string& weight_name) {
  const TensorInfo& tensor = checkpoint.at(weight_name);
  if (tensor.shape.size() != 2 || (tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16))
    return std::nullopt;
  const std::vector<std::uint16_t> bits = bits_of(checkpoint.bytes(tensor));
  checkpoint.release(tensor);
  return pack({bits, tensor.shape[0], tensor.shape[1], tensor.dtype}, {PackedKind::kDense16});
}

bool has_packed_tensors(const Checkpoint& checkpoint) {
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (is_packed_name(tensor.name)) return true;
  }
  return false;
}

PackReport pack_checkpoint(const Checkpoint& source, std::span<const std::string> weights,
                           const fs::path& target, const PackOptions& options) {
  const WeightParts whole(source);
  const WeightParts& parts = options.parts != nullptr ? *options.parts : whole;
  if (has_packed_tensors(source)) bad_input("{}: the model is packed already", source.folder().string());
  const PackReport result = measure(source, parts, weights, options);
  if (result.linears.empty() && result.tables.empty()) {
    bad_input("{}: found no BF16 or F16 linear layers; F32 weights are not packed", source.folder().string());
  }
  std::map<std::string, const PackedLinear*> chosen;
  for (const PackedLinear& linear : result.linears) chosen.emplace(linear.name, &linear);
  for (const PackedLinear& table : result.tables) chosen.emplace(table.name, &table);
  std::vector<PlannedTensor> plan = parts.plan_in_parts();
  for (PlannedTensor& tensor : plan) {
    const auto linear = chosen.find(tensor.name);
    if (linear == chosen.end()) continue;
    tensor = {tensor.name + kPackedSuffix, DType::kU8, {linear->second->packed_bytes}, tensor.file, true};
  }
  CheckpointWriter writer(target, std::move(plan));
  std::size_t done = 0;
  const auto write_packed = [&](const PackedLinear& linear) {
    const PackedTensor packed = is_grid(linear.format.kind)
                                    ? pack_table(source, linear.name, options.table_bits)
                                    : pack_linear(parts, linear.name, linear.format);
    writer.write_bytes(linear.name + kPackedSuffix, packed.bytes());
    report(options.progress, "pack", ++done, chosen.size());
  };
  for (const TensorInfo& tensor : source.tensors()) {
    if (parts.holds_parts(tensor.name)) continue;
    if (const auto linear = chosen.find(tensor.name); linear != chosen.end()) {
      write_packed(*linear->second);
    } else {
      writer.write_bytes(tensor.name, source.bytes(tensor));
    }
    source.release(tensor);
  }
  for (const std::string& name : parts.part_names()) {
    if (const auto linear = chosen.find(name); linear != chosen.end()) {
      write_packed(*linear->second);
    } else {
      writer.write_bytes(name, parts.bytes(name));
    }
    parts.release(name);
  }
  writer.write_file(kPackedRecordFile, packed_record(result, options).dump(2) + "\n");
  writer.write_file("config.json", packed_config(source));
  write_model_card(source, record_beside(source), true, writer);
  writer.copy_other_files(source, std::array{std::string(kPackedRecordFile)}, Adapters::kCopy);
  writer.finish();
  return result;
}

void unpack_checkpoint(const Checkpoint& source, const fs::path& target, const ProgressFn& progress) {
  if (!has_packed_tensors(source)) bad_input("{}: the model is not packed", source.folder().string());
  std::vector<PlannedTensor> plan = plan_like(source);
  bool grids = false;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    report(progress, "check", i, plan.size());
    if (!is_packed_name(plan[i].name)) continue;
    const PackedTensor packed = parse(source, source.at(plan[i].name));
    const std::string name = plan[i].name.substr(0, plan[i].name.size() - std::strlen(kPackedSuffix));
    grids |= is_grid(packed.kind());
    plan[i] = {name, packed.shape().dtype, {packed.rows(), packed.cols()}, plan[i].file};
    plan[i].transposed = is_stored_transposed(source.config(), name);
  }
  CheckpointWriter writer(target, std::move(plan));
  std::size_t done = 0;
  for (const TensorInfo& tensor : source.tensors()) {
    if (is_packed_name(tensor.name)) {
      const PackedTensor packed = parse(source, tensor);
      const std::string name = tensor.name.substr(0, tensor.name.size() - std::strlen(kPackedSuffix));
      if (is_grid(packed.kind())) {
        writer.write(name, unpack_f32(packed).values());
      } else {
        const std::vector<std::uint16_t> bits = unpack(packed);
        writer.write_bytes(name, std::as_bytes(std::span(bits)));
      }
    } else {
      writer.write_bytes(tensor.name, source.bytes(tensor));
    }
    source.release(tensor);
    report(progress, "unpack", ++done, source.tensors().size());
  }
  writer.write_file("config.json", grids ? float32_config(source) : read_config_file(source).dump(2) + "\n");
  write_model_card(source, record_beside(source), false, writer);
  writer.copy_other_files(source, std::array{std::string(kPackedRecordFile)}, Adapters::kCopy);
  writer.finish();
}

}  // namespace swiftprune
