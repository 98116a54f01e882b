#include "swiftprune/export/export_gguf.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "swiftprune/checkpoint/gguf_architectures.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/export/gguf_metadata.h"
#include "swiftprune/export/gguf_quantize.h"
#include "swiftprune/export/gguf_vocabulary.h"
#include "swiftprune/export/gguf_writer.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kConversionChunk = std::int64_t{1} << 18;  // elements

// One tensor's way from the folder to the file.
struct TensorPlan {
  const TensorInfo* source;
  const TensorRule* rule;
  std::string name;    // GGUF's
  std::int64_t block;  // -1: none
};

// "model.layers.7.mlp" against "model.layers.*.mlp": the block, -1 where there is none.
std::optional<std::int64_t> match(std::string_view pattern, std::string_view name) {
  const auto star = pattern.find('*');
  if (star == std::string_view::npos) {
    return pattern == name ? std::optional<std::int64_t>(-1) : std::nullopt;
  }
  if (name.size() < pattern.size() || !name.starts_with(pattern.substr(0, star)) ||
      !name.ends_with(pattern.substr(star + 1))) {
    return std::nullopt;
  }
  const std::string_view digits = name.substr(star, name.size() - pattern.size() + 1);
  std::int64_t block = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), block);
  if (error != std::errc() || end != digits.data() + digits.size() || block < 0) return std::nullopt;
  return block;
}

std::optional<TensorPlan> plan_tensor(const TensorInfo& tensor, std::string_view name,
                                      const GgufArchitecture& architecture) {
  const auto dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view stem = name.substr(0, dot), part = name.substr(dot + 1);
  if (part != "weight" && part != "bias") return std::nullopt;
  for (const auto& rules : {architecture.model_tensors, architecture.block_tensors}) {
    for (const TensorRule& rule : rules) {
      if (rule.hugging_face.empty() || (part == "bias" && rule.bias == "none")) continue;
      const auto block = match(rule.hugging_face, stem);
      if (!block) continue;
      const std::string prefix = *block < 0 ? "" : fmt::format("blk.{}.", *block);
      return TensorPlan{&tensor, &rule, fmt::format("{}{}.{}", prefix, rule.gguf, part), *block};
    }
  }
  return std::nullopt;
}

// What a folder may hold and the model does not use: buffers that old versions of transformers saved, a head
// beside tied embeddings, a vision model beside the text model.
bool is_ignored(std::string_view name, const ModelConfig& model) {
  constexpr std::array<std::string_view, 3> kBuffers = {".rotary_emb.inv_freq", ".attention.bias",
                                                        ".attention.masked_bias"};
  const bool is_buffer = std::any_of(kBuffers.begin(), kBuffers.end(),
                                     [&](std::string_view buffer) { return name.ends_with(buffer); });
  const bool is_unused_head = name.ends_with("lm_head.weight") && model.head != name;
  const bool is_vision = name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.");
  return is_buffer || is_unused_head || is_vision;
}

std::vector<TensorPlan> plan_tensors(const Model& model, const GgufArchitecture& architecture) {
  constexpr std::string_view kTextModel = "language_model.";
  std::vector<TensorPlan> plan;
  for (const TensorInfo& tensor : model.checkpoint().tensors()) {
    std::string_view name = tensor.name;
    if (is_ignored(name, model.config())) continue;
    if (name.starts_with(kTextModel)) name.remove_prefix(kTextModel.size());
    auto planned = plan_tensor(tensor, name, architecture);
    if (!planned) {
      bad_input("{}: tensor '{}': llama.cpp's {} has no place for it", tensor.file, tensor.name,
                architecture.name);
    }
    plan.push_back(std::move(*planned));
  }
  return plan;
}

const GgmlTypeTraits* type_of(DType dtype) {
  return writable_ggml_type(dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16");
}

const GgmlTypeTraits* most_common_type(const std::vector<TensorPlan>& plan) {
  std::map<DType, std::int64_t> elements;
  for (const TensorPlan& tensor : plan) {
    if (tensor.source->shape.size() > 1) elements[tensor.source->dtype] += tensor.source->numel();
  }
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return type_of(most->first);
}

const GgmlTypeTraits* type_in_file(const TensorInfo& tensor, const GgmlTypeTraits* wanted) {
  if (tensor.shape.size() <= 1) return writable_ggml_type("f32");
  return tensor.shape.back() % wanted->block_size == 0 ? wanted : writable_ggml_type("f16");
}

// general.file_type: llama.cpp's LLAMA_FTYPE.
std::int64_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::kF16:
      return 1;
    case GgmlType::kQ8_0:
      return 7;
    case GgmlType::kBF16:
      return 32;
    default:
      return 0;
  }
}

// "135M": two digits at least.
std::string size_label(std::int64_t parameters) {
  const auto n = static_cast<double>(parameters);
  const std::pair<double, char> units[] = {{1e12, 'T'}, {1e9, 'B'}, {1e6, 'M'}, {1e3, 'K'}};
  for (const auto& [unit, letter] : units) {
    if (n >= unit || letter == 'K') return fmt::format("{:.{}f}{}", n / unit, n / unit < 9.5 ? 1 : 0, letter);
  }
  return "";
}

void check_values(const TensorInfo& tensor, std::span<const float> values, GgmlType type) {
  constexpr float kLargestF16 = 65519.996f;  // rounds to 65504
  for (const float value : values) {
    if (!std::isfinite(value))
      bad_input("{}: tensor '{}': found {}, expected finite weights", tensor.file, tensor.name, value);
    if (type == GgmlType::kF16 && std::abs(value) > kLargestF16) {
      bad_input("{}: tensor '{}': found {}, which f16 cannot hold; use --type bf16", tensor.file, tensor.name,
                value);
    }
  }
}

// Of a tensor whose rows move: of its block, whose heads are its own where layers differ.
std::int64_t heads_of(const ModelConfig& model, const TensorPlan& plan) {
  const auto index = static_cast<std::size_t>(plan.block);
  expect(index < model.blocks.size(), "export_gguf: rows move in blocks only");
  const BlockConfig& block = model.blocks[index];
  return plan.rule->order == RowOrder::kRotaryPairsOfK ? model.kv_heads_in(block) : model.heads_in(block);
}

void write_tensor(const Model& model, const TensorPlan& plan, const GgmlTypeTraits& type, std::size_t index,
                  const GgufWriter& writer) {
  const TensorInfo& tensor = *plan.source;
  const ModelConfig& m = model.config();
  const bool reordered = plan.rule->order != RowOrder::kSame;
  const std::int64_t heads = reordered ? heads_of(m, plan) : 0;
  // A vector that keeps its order is one row.
  const std::int64_t rows = tensor.shape.size() > 1 || reordered ? tensor.shape[0] : 1;
  const std::int64_t size = rows == 0 ? 0 : tensor.numel() / rows;
  const auto row_bytes = static_cast<std::size_t>(size / type.block_size * type.block_bytes);
  const auto source_bytes = static_cast<std::size_t>(size * size_of(tensor.dtype));
  const auto bytes = model.checkpoint().bytes(tensor);
  // A row at a time where rows move, else as many as make a good piece.
  const std::int64_t step =
      reordered ? 1 : std::max<std::int64_t>(1, kConversionChunk / std::max<std::int64_t>(1, size));
  parallel_for(rows, step, [&](std::int64_t first, std::int64_t last) {
    check_interrupt();
    const auto count = static_cast<std::size_t>(last - first);
    std::vector<float> values(count * static_cast<std::size_t>(size));
    std::vector<std::byte> blocks(count * row_bytes);
    convert_to_f32(bytes.subspan(static_cast<std::size_t>(first) * source_bytes, count * source_bytes),
                   tensor.dtype, values);
    if (plan.rule->offset != 0.0f) {
      for (float& value : values) value -= plan.rule->offset;
    }
    check_values(tensor, values, type.type);
    quantize(type, values, blocks);
    const std::int64_t target = stored_row(plan.rule->order, first, heads, m.head_size);
    writer.write(index, static_cast<std::uint64_t>(target) * row_bytes, blocks);
  });
  model.checkpoint().release(tensor);
}

}  // namespace

ExportReport export_gguf(const Model& model, const fs::path& file, const ExportOptions& options) {
  const Checkpoint& checkpoint = model.checkpoint();
  if (has_packed_tensors(checkpoint)) {
    bad_input("{}: GGUF cannot hold a packed model; make it dense first: swiftprune unpack",
              checkpoint.folder().string());
  }
  const GgufArchitecture& architecture = gguf_architecture_for(model.config());
  const std::vector<TensorPlan> plan = plan_tensors(model, architecture);
  const GgmlTypeTraits* type = options.type != nullptr ? options.type : most_common_type(plan);

  ExportReport report;
  report.architecture = architecture.name;
  report.type = type->name;
  for (const TensorPlan& tensor : plan) report.num_parameters += tensor.source->numel();

  GgufMetadata metadata;
  metadata.text("general.architecture", architecture.name);
  metadata.text("general.type", "model");
  metadata.text("general.name", options.name);
  metadata.text("general.size_label", size_label(report.num_parameters));
  const GgufHyperParameters parameters = add_gguf_hyper_parameters(model, architecture, metadata);
  report.notes = parameters.notes;
  metadata.u32("general.file_type", file_type(type->type));
  metadata.u32("general.quantization_version", 2);
  options.progress("tokenizer", 0, 0);
  add_gguf_vocabulary(checkpoint.folder(), text_config(checkpoint), model.config().vocab_size, metadata);

  std::vector<GgufPlannedTensor> planned;
  for (const GgufTable& table : parameters.tables) {
    planned.push_back(
        {table.name, {static_cast<std::int64_t>(table.values.size())}, writable_ggml_type("f32")});
  }
  for (const TensorPlan& tensor : plan) {
    planned.push_back({tensor.name, tensor.source->shape, type_in_file(*tensor.source, type)});
  }
  report.num_tensors = static_cast<std::int64_t>(planned.size());
  GgufWriter writer(file, metadata, planned);
  std::size_t index = 0;
  for (const GgufTable& table : parameters.tables) {
    writer.write(index++, 0, std::as_bytes(std::span(table.values)));
  }
  for (const TensorPlan& tensor : plan) {
    write_tensor(model, tensor, *planned[index].type, index, writer);
    ++index;
    options.progress("export", static_cast<std::int64_t>(index), report.num_tensors);
  }
  writer.finish();
  report.bytes = writer.num_bytes();
  return report;
}

}  // namespace swiftprune
