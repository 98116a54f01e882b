#include "swiftprune/sparse/packed_checkpoint.h"

#include <array>
#include <cstring>
#include <map>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

std::string where(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  return (checkpoint.folder() / tensor.file).string() + ": tensor " + tensor.name;
}

PackedTensor parse(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  if (tensor.dtype != DType::kU8 || tensor.shape.size() != 1) {
    bad_input("{}: found {} of rank {}, expected U8 of rank 1", where(checkpoint, tensor),
              name_of(tensor.dtype), tensor.shape.size());
  }
  return PackedTensor::parse(checkpoint.bytes(tensor), where(checkpoint, tensor), nullptr);
}

// A copy: the mapped bytes need not be aligned to two.
std::vector<std::uint16_t> bits_of(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(tensor.numel()));
  std::memcpy(bits.data(), checkpoint.bytes(tensor).data(), bits.size() * sizeof(std::uint16_t));
  return bits;
}

bool is_packed_name(const std::string& name) { return name.ends_with(".weight.packed"); }

void report(const ProgressFn& progress, std::string_view stage, std::size_t done, std::size_t total) {
  check_interrupt();
  if (progress) progress(stage, static_cast<std::int64_t>(done), static_cast<std::int64_t>(total));
}

std::int64_t tensor_bytes(const Checkpoint& checkpoint) {
  std::int64_t sum = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) sum += tensor.num_bytes();
  return sum;
}

// Decides the format of every weight; nothing is written yet, so that the files' sizes are known first.
PackReport measure(const Checkpoint& source, std::span<const std::string> weights,
                   const PackOptions& options) {
  PackReport result;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    report(options.progress, "measure", i, weights.size());
    const TensorInfo& tensor = source.at(weights[i]);
    if (tensor.shape.size() != 2 || tensor.numel() == 0) {
      bad_input("{}: found rank {}, expected a matrix", where(source, tensor), tensor.shape.size());
    }
    if (tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16) {
      result.left.push_back(tensor.name);
      continue;
    }
    const std::vector<std::uint16_t> bits = bits_of(source, tensor);
    std::int64_t nonzero = 0;
    for (const std::uint16_t b : bits) nonzero += b != 0 ? 1 : 0;
    const FormatSize best =
        formats_for({bits, tensor.shape[0], tensor.shape[1], tensor.dtype}, options.quantize).front();
    result.linears.push_back({tensor.name, best.format, tensor.num_bytes(), best.num_bytes,
                              static_cast<double>(nonzero) / static_cast<double>(tensor.numel())});
    result.dense_bytes += tensor.num_bytes();
    result.packed_bytes += best.num_bytes;
    source.release(tensor);
  }
  report(options.progress, "measure", weights.size(), weights.size());
  result.source_bytes = tensor_bytes(source);
  result.target_bytes = result.source_bytes - result.dense_bytes + result.packed_bytes;
  return result;
}

}  // namespace

nlohmann::ordered_json packed_record(const PackReport& report, std::string_view quantize) {
  return {{"format", "swiftprune packed model"},     {"format_version", 1},
          {"swiftprune", SWIFTPRUNE_VERSION},        {"quantize", quantize},
          {"packed_tensors", report.linears.size()}, {"dense_bytes", report.dense_bytes},
          {"packed_bytes", report.packed_bytes}};
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

std::optional<PackedTensor> pack_dense(const Checkpoint& checkpoint, const std::string& weight_name) {
  const TensorInfo& tensor = checkpoint.at(weight_name);
  if (tensor.shape.size() != 2 || (tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16))
    return std::nullopt;
  const std::vector<std::uint16_t> bits = bits_of(checkpoint, tensor);
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
  if (has_packed_tensors(source)) bad_input("{}: the model is packed already", source.folder().string());
  const PackReport result = measure(source, weights, options);
  if (result.linears.empty()) {
    bad_input("{}: found no BF16 or F16 linear layers; F32 weights are not packed", source.folder().string());
  }
  std::map<std::string, const PackedLinear*> chosen;
  for (const PackedLinear& linear : result.linears) chosen.emplace(linear.name, &linear);
  std::vector<PlannedTensor> plan = plan_like(source);
  for (PlannedTensor& tensor : plan) {
    const auto linear = chosen.find(tensor.name);
    if (linear == chosen.end()) continue;
    tensor = {tensor.name + kPackedSuffix, DType::kU8, {linear->second->packed_bytes}, tensor.file, true};
  }
  CheckpointWriter writer(target, std::move(plan));
  std::size_t done = 0;
  for (const TensorInfo& tensor : source.tensors()) {
    const auto linear = chosen.find(tensor.name);
    if (linear == chosen.end()) {
      writer.write_bytes(tensor.name, source.bytes(tensor));
    } else {
      const std::vector<std::uint16_t> bits = bits_of(source, tensor);
      const PackedTensor packed =
          pack({bits, tensor.shape[0], tensor.shape[1], tensor.dtype}, linear->second->format);
      writer.write_bytes(tensor.name + kPackedSuffix, packed.bytes());
      report(options.progress, "pack", ++done, result.linears.size());
    }
    source.release(tensor);
  }
  writer.write_file(kPackedRecordFile, packed_record(result, name_of(options.quantize)).dump(2) + "\n");
  writer.copy_other_files(source, std::array{std::string(kPackedRecordFile)});
  writer.finish();
  return result;
}

void unpack_checkpoint(const Checkpoint& source, const fs::path& target, const ProgressFn& progress) {
  if (!has_packed_tensors(source)) bad_input("{}: the model is not packed", source.folder().string());
  std::vector<PlannedTensor> plan = plan_like(source);
  for (std::size_t i = 0; i < plan.size(); ++i) {
    report(progress, "check", i, plan.size());
    if (!is_packed_name(plan[i].name)) continue;
    const PackedTensor packed = parse(source, source.at(plan[i].name));
    const std::string name = plan[i].name.substr(0, plan[i].name.size() - std::strlen(kPackedSuffix));
    plan[i] = {name, packed.shape().dtype, {packed.rows(), packed.cols()}, plan[i].file};
  }
  CheckpointWriter writer(target, std::move(plan));
  std::size_t done = 0;
  for (const TensorInfo& tensor : source.tensors()) {
    if (is_packed_name(tensor.name)) {
      const std::vector<std::uint16_t> bits = unpack(parse(source, tensor));
      const std::string name = tensor.name.substr(0, tensor.name.size() - std::strlen(kPackedSuffix));
      writer.write_bytes(name, std::as_bytes(std::span(bits)));
    } else {
      writer.write_bytes(tensor.name, source.bytes(tensor));
    }
    source.release(tensor);
    report(progress, "unpack", ++done, source.tensors().size());
  }
  writer.copy_other_files(source, std::array{std::string(kPackedRecordFile)});
  writer.finish();
}

}  // namespace swiftprune
