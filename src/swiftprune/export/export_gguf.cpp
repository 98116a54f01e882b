#include "swiftprune/export/export_gguf.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <variant>

#include "swiftprune/checkpoint/gguf_architectures.h"
#include "swiftprune/checkpoint/text_tower.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/export/gguf_grid.h"
#include "swiftprune/export/gguf_metadata.h"
#include "swiftprune/export/gguf_quantize.h"
#include "swiftprune/export/gguf_sources.h"
#include "swiftprune/export/gguf_vocabulary.h"
#include "swiftprune/export/gguf_writer.h"
#include "swiftprune/masking/zero_scan.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

// One tensor's way from the folder to the file.
struct TensorPlan {
  const TensorInfo* source;  // null: made of others
  const TensorRule* rule;
  std::string name;    // GGUF's
  std::int64_t block;  // -1: none
  std::vector<std::int64_t> shape;
  const GgmlTypeTraits* type = nullptr;
  bool keep_zeros = false;
  std::optional<GgufSource> made = {};
  std::vector<float> factors = {};  // of the rows, or nothing

  std::int64_t numel() const {
    std::int64_t n = 1;
    for (const std::int64_t extent : shape) n *= extent;
    return n;
  }
  // Routers choose by small differences, biases are small, and llama.cpp leaves positions, convolutions and what else
  // mixers have beside projections as they are: all are F32 like vectors.
  bool is_matrix() const {
    return shape.size() > 1 && !(made && made->is_bias) && rule->gguf != "ffn_gate_inp" &&
           rule->gguf != "position_embd" && rule->form != TensorForm::kConvolution &&
           rule->form != TensorForm::kColumn && rule->form != TensorForm::kGroups;
  }
  std::string source_name() const { return source != nullptr ? source->name : made->name; }
};

constexpr GgmlType kMxType = GgmlType::kMXFP4;

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

// Of the mixers, whose norms llama.cpp has as a matrix.
std::int64_t mamba_groups(const ModelConfig& model) {
  for (const BlockConfig& block : model.blocks) {
    if (!block.has_state()) continue;
    if (const auto* mamba = std::get_if<Mamba2>(&block.mixer())) return mamba->groups;
  }
  return 1;
}

std::vector<std::int64_t> gguf_shape(const TensorInfo& tensor, const TensorRule& rule,
                                     const ModelConfig& model) {
  const std::int64_t n = tensor.numel();
  if (rule.form == TensorForm::kOneRow) return {n};
  if (rule.form == TensorForm::kColumn) return {n, 1};
  if (rule.form == TensorForm::kConvolution && tensor.shape.size() == 3)
    return {tensor.shape.front(), tensor.shape.back()};
  if (rule.form == TensorForm::kGroups) return {mamba_groups(model), n / mamba_groups(model)};
  return tensor.shape;
}

std::optional<TensorPlan> plan_tensor(const TensorInfo& tensor, std::string_view name,
                                      const GgufArchitecture& architecture, const ModelConfig& model) {
  const auto dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view stem = name.substr(0, dot), part = name.substr(dot + 1);
  for (const auto& rules : {architecture.model_tensors, architecture.block_tensors}) {
    for (const TensorRule& rule : rules) {
      const bool whole = rule.has_whole_names();
      if (rule.hugging_face.empty() || rule.is_made()) continue;
      if (!whole && ((part != "weight" && part != "bias") || (part == "bias" && rule.bias == "none")))
        continue;
      const auto block = match(rule.hugging_face, whole ? name : stem);
      if (!block) continue;
      const std::string prefix = *block < 0 ? "" : fmt::format("blk.{}.", *block);
      TensorPlan plan{.source = &tensor,
                      .rule = &rule,
                      .name = prefix + std::string(rule.gguf) + (whole ? "" : fmt::format(".{}", part)),
                      .block = *block,
                      .shape = gguf_shape(tensor, rule, model)};
      return plan;
    }
  }
  return std::nullopt;
}

// What a folder may hold and the model does not use: buffers that old versions of transformers saved, a head
// beside tied embeddings.
bool is_ignored(std::string_view name, const ModelConfig& model) {
  constexpr std::array<std::string_view, 3> kBuffers = {".rotary_emb.inv_freq", ".attention.bias",
                                                        ".attention.masked_bias"};
  const bool is_buffer = std::any_of(kBuffers.begin(), kBuffers.end(),
                                     [&](std::string_view buffer) { return name.ends_with(buffer); });
  const bool is_unused_head = name.ends_with("lm_head.weight") && model.head != name;
  return is_buffer || is_unused_head;
}

// Is it a number that GGUF has as a key?
bool is_activation_number(std::string_view name, const ModelConfig& model) {
  return std::any_of(model.blocks.begin(), model.blocks.end(), [&](const BlockConfig& block) {
    const auto& x = block.xielu;
    return x && (name == x->alpha_p || name == x->alpha_n || name == x->beta || name == x->eps);
  });
}

// Is it of one of the blocks behind the model's own, or of the heads, that predict further tokens?
bool is_of_extra_block(std::string_view name, const Model& model) {
  if (name.starts_with("mtp.") || name.starts_with("model.mtp.")) return true;
  const std::int64_t layers = model.config().num_layers();
  const auto extra = text_config(model.checkpoint()).find("num_nextn_predict_layers");
  if (extra == text_config(model.checkpoint()).end() || !extra->is_number_integer()) return false;
  constexpr std::string_view kBlocks = "model.layers.";
  if (!name.starts_with(kBlocks)) return false;
  std::int64_t block = -1;
  std::from_chars(name.data() + kBlocks.size(), name.data() + name.size(), block);
  return block >= layers && block - layers < extra->get<std::int64_t>();
}

std::vector<TensorPlan> plan_tensors(const Model& model, const GgufArchitecture& architecture,
                                     std::vector<std::string>& notes) {
  const TextTower* tower = text_tower_of(model.checkpoint().config());
  std::vector<TensorPlan> plan;
  std::set<std::string> taken;
  for (GgufSource& source : gguf_sources(model, architecture)) {
    taken.insert(source.tensors.begin(), source.tensors.end());
    plan.push_back({.source = nullptr,
                    .rule = source.rule,
                    .name = fmt::format("blk.{}.{}.{}", source.block, source.rule->gguf,
                                        source.is_bias ? "bias" : "weight"),
                    .block = source.block,
                    .shape = source.shape,
                    .made = std::move(source)});
  }
  std::int64_t left_out = 0;
  for (const TensorInfo& tensor : model.checkpoint().tensors()) {
    if (is_ignored(tensor.name, model.config()) || taken.contains(tensor.name) ||
        is_activation_number(tensor.name, model.config()))
      continue;
    if (is_of_extra_block(tensor.name, model)) {
      ++left_out;
      continue;
    }
    std::string name = tensor.name;
    if (tower != nullptr) {
      const auto of_text = text_tensor_name(*tower, tensor.name);
      if (!of_text) continue;  // of a part beside the text model
      name = *of_text;
    }
    auto planned = plan_tensor(tensor, name, architecture, model.config());
    if (!planned) {
      bad_input("{}: tensor '{}': llama.cpp's {} has no place for it", tensor.file, tensor.name,
                architecture.name);
    }
    plan.push_back(std::move(*planned));
  }
  if (left_out > 0) {
    notes.push_back(fmt::format(
        "{} tensors that predict further tokens are left out, which swiftprune does not do", left_out));
  }
  return plan;
}

// What llama.cpp has no number for is in the weights: by what to multiply each row of a tensor, or nothing.
using RowFactors = std::map<std::string, std::vector<float>>;

RowFactors row_factors(const ModelConfig& model, const GgufArchitecture& architecture) {
  RowFactors factors;
  if (architecture.name != "falcon-h1") return factors;
  const auto set = [&](const std::string& tensor, std::vector<float> of_rows) {
    factors.erase(tensor);
    if (std::any_of(of_rows.begin(), of_rows.end(), [](float f) { return f != 1.0f; }))
      factors[tensor] = std::move(of_rows);
  };
  for (const BlockConfig& block : model.blocks) {
    for (const LinearTensors& linear : linears_of(block))
      set(linear.name + ".weight",
          std::vector<float>(static_cast<std::size_t>(linear.outputs), linear.scale));
    if (!block.beside) continue;
    const LinearTensors& input = block.beside->input;
    const auto& mamba = std::get<Mamba2>(block.beside->mixer);
    const std::int64_t size = mamba.heads * mamba.head_size, state = mamba.groups * mamba.state_size;
    const std::int64_t counts[] = {size, size, state, state, mamba.heads};  // z, x, B, C, dt
    std::vector<float> of_rows;
    for (std::size_t part = 0; part < mamba.scales.size(); ++part)
      of_rows.insert(of_rows.end(), static_cast<std::size_t>(counts[part]), input.scale * mamba.scales[part]);
    set(input.name + ".weight", std::move(of_rows));
  }
  const auto words = static_cast<std::size_t>(model.vocab_size);
  set(model.embedding, std::vector<float>(words, model.embedding_scale));
  if (model.head != model.embedding) set(model.head, std::vector<float>(words, model.logit_scale));
  return factors;
}

void multiply_rows(const ModelConfig& model, const GgufArchitecture& architecture,
                   std::vector<TensorPlan>& plan) {
  const RowFactors factors = row_factors(model, architecture);
  std::optional<TensorPlan> head;
  for (TensorPlan& tensor : plan) {
    if (tensor.source == nullptr) continue;
    const auto found = factors.find(tensor.source->name);
    if (found != factors.end()) tensor.factors = found->second;
    // One tensor with two factors is two.
    const bool tied = tensor.source->name == model.embedding && model.head == model.embedding;
    if (!tied || architecture.name != "falcon-h1" || model.embedding_scale == model.logit_scale) continue;
    head = tensor;
    head->factors.assign(static_cast<std::size_t>(model.vocab_size), model.logit_scale);
  }
  if (!head) return;
  const auto rules = architecture.model_tensors;
  head->rule = &*std::find_if(rules.begin(), rules.end(),
                              [](const TensorRule& rule) { return rule.gguf == "output"; });
  head->name = "output.weight";
  plan.push_back(std::move(*head));
}

const GgufMix* most_common_type(const std::vector<TensorPlan>& plan) {
  std::map<DType, std::int64_t> elements;
  for (const TensorPlan& tensor : plan) {
    if (tensor.is_matrix())
      elements[tensor.made ? tensor.made->dtype : tensor.source->dtype] += tensor.numel();
  }
  elements.erase(DType::kU8);  // MXFP4, which stays
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return find_gguf_mix(most->first == DType::kF32 ? "f32" : most->first == DType::kF16 ? "f16" : "bf16");
}

// Was it pruned? Then its zeros stay zeros in whatever type. Trained weights have next to none.
bool has_pruned_zeros(const Checkpoint& checkpoint, const TensorPlan& plan) {
  constexpr double kPruned = 0.01;
  std::int64_t zeros = 0;
  const auto count = [&](const std::byte* bytes, DType dtype, std::int64_t rows, std::int64_t cols) {
    zeros += scan_zeros({bytes, dtype, rows, cols, cols}).num_zeros;
  };
  if (plan.source != nullptr) {
    count(checkpoint.bytes(*plan.source).data(), plan.source->dtype, plan.shape[0], plan.shape[1]);
  } else {
    for (std::int64_t i = 0; i < plan.made->matrices(); ++i) {
      check_interrupt();
      const StoredMatrix matrix = plan.made->matrix(i);
      count(matrix.bytes.data(), matrix.dtype, plan.made->rows(), plan.made->cols());
    }
  }
  return static_cast<double>(zeros) >= kPruned * static_cast<double>(plan.numel());
}

// Would the type take no fewer bits than the MXFP4 that the experts have?
bool is_no_smaller_than_mxfp4(const GgmlTypeTraits& type) {
  const GgmlTypeTraits& mx = *find_ggml_type(static_cast<std::uint32_t>(kMxType));
  return type.block_bytes * mx.block_size >= mx.block_bytes * type.block_size;
}

// Gives every tensor its type. Notes say which matrices could not have the one that was asked for.
void choose_types(const Model& model, const GgufMix& mix, std::vector<TensorPlan>& plan,
                  ExportReport& report) {
  const ModelConfig& m = model.config();
  const ExpertsConfig* experts = experts_of(m);
  const bool tied = std::none_of(plan.begin(), plan.end(),
                                 [](const TensorPlan& tensor) { return tensor.rule->gguf == "output"; });
  std::map<std::tuple<GgmlType, GgmlType, std::int64_t>, std::int64_t> replaced;
  for (TensorPlan& tensor : plan) {
    if (!tensor.is_matrix()) {
      tensor.type = writable_ggml_type(GgmlType::kF32);
      continue;
    }
    MatrixPlace place{.gguf = tensor.rule->gguf,
                      .block = tensor.block,
                      .num_blocks = m.num_layers(),
                      .columns = tensor.shape.back(),
                      .queries_per_key = m.num_heads / std::max<std::int64_t>(1, m.num_kv_heads),
                      .num_experts = experts == nullptr ? 0 : experts->count,
                      .tied = tied};
    const MatrixType type = matrix_type(mix, place);
    tensor.type = writable_ggml_type(type.type);
    if (tensor.made && tensor.made->mxfp4 && is_no_smaller_than_mxfp4(*tensor.type)) {
      tensor.type = find_ggml_type(static_cast<std::uint32_t>(kMxType));
      ++report.types[std::string(tensor.type->name)];
      continue;
    }
    const GgmlGrid* grid = find_grid(type.type);
    tensor.keep_zeros =
        grid != nullptr && tensor.shape.size() >= 2 && has_pruned_zeros(model.checkpoint(), tensor);
    ++report.types[std::string(tensor.type->name)];
    if (type.wanted != type.type) ++replaced[{type.wanted, type.type, place.columns}];
  }
  for (const auto& [what, count] : replaced) {
    const auto& [wanted, found, columns] = what;
    const GgmlTypeTraits& traits = *writable_ggml_type(wanted);
    report.notes.push_back(fmt::format("{} matrices are {} and not {}: rows of {} are no multiple of {}",
                                       count, writable_ggml_type(found)->name, traits.name, columns,
                                       traits.block_size));
  }
}

std::string upper(std::string_view name) {
  std::string result(name);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return result;
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

void check_values(const std::string& file, const std::string& name, std::span<const float> values,
                  GgmlType type) {
  constexpr float kLargestF16 = 65519.996f;  // rounds to 65504
  const bool scales_in_f16 = type != GgmlType::kF32 && type != GgmlType::kBF16 && type != GgmlType::kQ8_0;
  for (const float value : values) {
    if (!std::isfinite(value))
      bad_input("{}: tensor '{}': found {}, expected finite weights", file, name, value);
    if (scales_in_f16 && std::abs(value) > kLargestF16) {
      bad_input("{}: tensor '{}': found {}, which {} cannot hold; use --type bf16", file, name, value,
                type == GgmlType::kF16 ? "f16" : "a type with f16 scales");
    }
  }
}

// By which a tensor's rows or columns move: by the sizes of its block, whose heads are its own where layers differ.
RowLayout layout_of(RowOrder order, const ModelConfig& model, std::int64_t block_number) {
  if (order == RowOrder::kSame) return {};
  const auto index = static_cast<std::size_t>(block_number);
  expect(index < model.blocks.size(), "export_gguf: rows move in blocks only");
  const BlockConfig& block = model.blocks[index];
  if (is_of_value_heads(order)) {
    const auto& net = std::get<GatedDeltaNet>(*block.recurrent);
    return value_head_layout(order, net.key_heads, net.value_heads, net.key_size, net.value_size);
  }
  const bool keys = order == RowOrder::kRotaryPairsOfK;
  return {.order = order,
          .heads = keys ? model.kv_heads_in(block) : model.heads_in(block),
          .head_dim = model.head_size};
}

// Where a tensor's rows go in the file, and where their elements come from.
class RowTargets {
 public:
  RowTargets(const ModelConfig& model, const TensorPlan& plan)
      : rows_(layout_of(plan.rule->order, model, plan.block)),
        columns_(layout_of(plan.rule->columns, model, plan.block)) {}
  bool moves_rows() const { return rows_.order != RowOrder::kSame; }
  std::int64_t of(std::int64_t row) const { return stored_row(rows_, row); }
  // A row in the order of the file.
  void sort_columns(std::span<float> row) const {
    if (columns_.order == RowOrder::kSame) return;
    const std::vector<float> own(row.begin(), row.end());
    for (std::size_t c = 0; c < row.size(); ++c)
      row[static_cast<std::size_t>(stored_row(columns_, static_cast<std::int64_t>(c)))] = own[c];
  }

 private:
  RowLayout rows_, columns_;
};

void write_tensor(const Model& model, const TensorPlan& plan, std::size_t index, const GgufWriter& writer) {
  const TensorInfo& tensor = *plan.source;
  const GgmlTypeTraits& type = *plan.type;
  const ModelConfig& m = model.config();
  const RowTargets targets(m, plan);
  const bool reordered = targets.moves_rows();
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
    if (const float offset = tensor.name.ends_with(".bias") ? 0.0f : plan.rule->offset; offset != 0.0f) {
      for (float& value : values) value -= offset;
    }
    if (plan.rule->values == TensorValues::kMinusExp) {
      for (float& value : values) value = static_cast<float>(-std::exp(double{value}));
    }
    for (std::int64_t row = first; row < last; ++row) {
      const auto own = std::span(values).subspan(static_cast<std::size_t>((row - first) * size),
                                                 static_cast<std::size_t>(size));
      targets.sort_columns(own);
      if (plan.factors.empty()) continue;
      for (float& value : own) value *= plan.factors[static_cast<std::size_t>(row)];
    }
    check_values(tensor.file, tensor.name, values, type.type);
    quantize(type, values, blocks, {.keep_zeros = plan.keep_zeros});
    writer.write(index, static_cast<std::uint64_t>(targets.of(first)) * row_bytes, blocks);
  });
  model.checkpoint().release(tensor);
}

void write_made(const Model& model, const TensorPlan& plan, std::size_t index, const GgufWriter& writer) {
  const GgufSource& source = *plan.made;
  const GgmlTypeTraits& type = *plan.type;
  const std::int64_t rows = source.rows(), cols = source.cols();
  const auto row_bytes = static_cast<std::size_t>(cols / type.block_size * type.block_bytes);
  const std::string file = model.checkpoint().folder().string();
  const std::int64_t step = std::max<std::int64_t>(1, kConversionChunk / cols);
  for (std::int64_t m = 0; m < source.matrices(); ++m) {
    check_interrupt();
    const auto begin = static_cast<std::uint64_t>(m * rows) * row_bytes;
    if (type.type == kMxType) {
      writer.write(index, begin, source.mxfp4(m));
      continue;
    }
    const StoredMatrix matrix = source.matrix(m);
    const auto stored_row_bytes = static_cast<std::size_t>(cols * size_of(matrix.dtype));
    parallel_for(rows, step, [&](std::int64_t first, std::int64_t last) {
      const auto count = static_cast<std::size_t>(last - first);
      std::vector<float> values(count * static_cast<std::size_t>(cols));
      std::vector<std::byte> blocks(count * row_bytes);
      convert_to_f32(
          std::span(matrix.bytes)
              .subspan(static_cast<std::size_t>(first) * stored_row_bytes, count * stored_row_bytes),
          matrix.dtype, values);
      check_values(file, source.name, values, type.type);
      quantize(type, values, blocks, {.keep_zeros = plan.keep_zeros});
      writer.write(index, begin + static_cast<std::uint64_t>(first) * row_bytes, blocks);
    });
  }
}

// Linears of blocks on a type's grid, by their statistics. Returns which tensors of the plan were written.
std::vector<bool> write_calibrated(const Model& model, const std::vector<TensorPlan>& plan, std::size_t first,
                                   const GgufCalibration& calibration, const ProgressFn& progress,
                                   const GgufWriter& writer, std::vector<std::string>& notes) {
  std::map<std::string, CalibratedTensor> wanted;
  std::int64_t left_out = 0;
  std::map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const TensorPlan& tensor = plan[i];
    if (tensor.block < 0 || find_grid(tensor.type->type) == nullptr || tensor.shape.size() != 2) continue;
    // Statistics are those of the folder's weights.
    if (tensor.source == nullptr || !tensor.factors.empty() || tensor.rule->columns != RowOrder::kSame) {
      ++left_out;
      continue;
    }
    wanted[tensor.source->name] = {tensor.type, tensor.keep_zeros};
    index[tensor.source->name] = i;
  }
  if (left_out > 0) {
    notes.push_back(fmt::format(
        "{} linears are rounded weight by weight, not by the text: they are others in the file (rows of "
        "two, columns, multipliers)",
        left_out));
  }
  std::vector<bool> written(plan.size(), false);
  quantize_calibrated(
      model, calibration, wanted, progress, [&](const std::string& name, std::span<const std::byte> bytes) {
        const TensorPlan& tensor = plan[index.at(name)];
        const RowTargets targets(model.config(), tensor);
        const std::int64_t rows = tensor.source->shape[0];
        const std::size_t row_bytes =
            bytes.size() / static_cast<std::size_t>(std::max<std::int64_t>(1, rows));
        for (std::int64_t row = 0; row < rows; ++row) {
          writer.write(first + index.at(name), static_cast<std::uint64_t>(targets.of(row)) * row_bytes,
                       bytes.subspan(static_cast<std::size_t>(row) * row_bytes, row_bytes));
        }
        written[index.at(name)] = true;
      });
  return written;
}

}  // namespace

ExportReport export_gguf(const Model& model, const fs::path& file, const ExportOptions& options) {
  const Checkpoint& checkpoint = model.checkpoint();
  if (has_packed_tensors(checkpoint)) {
    bad_input("{}: GGUF cannot hold a packed model; make it dense first: swiftprune unpack",
              checkpoint.folder().string());
  }
  const GgufArchitecture& architecture = gguf_architecture_for(model.config());
  if (options.calibration) {
    check_without_experts(model.config(), "rounding by the statistics of a text",
                          "leave out --calibration: each weight is then rounded for itself");
  }
  ExportReport report;
  std::vector<TensorPlan> plan = plan_tensors(model, architecture, report.notes);
  multiply_rows(model.config(), architecture, plan);
  const GgufMix& mix = options.mix != nullptr ? *options.mix : *most_common_type(plan);

  report.architecture = architecture.name;
  report.type = upper(mix.name);
  for (const TensorPlan& tensor : plan) report.num_parameters += tensor.numel();

  GgufMetadata metadata;
  metadata.text("general.architecture", architecture.name);
  metadata.text("general.type", "model");
  metadata.text("general.name", options.name);
  metadata.text("general.size_label", size_label(report.num_parameters));
  const GgufHyperParameters parameters = add_gguf_hyper_parameters(model, architecture, metadata);
  report.notes.insert(report.notes.end(), parameters.notes.begin(), parameters.notes.end());
  choose_types(model, mix, plan, report);
  metadata.u32("general.file_type", mix.file_type);
  metadata.u32("general.quantization_version", 2);
  options.progress("tokenizer", 0, 0);
  add_gguf_vocabulary(checkpoint.folder(), text_config(checkpoint), model.config().vocab_size, metadata);

  std::vector<GgufPlannedTensor> planned;
  for (const GgufTable& table : parameters.tables) {
    planned.push_back(
        {table.name, {static_cast<std::int64_t>(table.values.size())}, writable_ggml_type(GgmlType::kF32)});
  }
  for (const TensorPlan& tensor : plan) {
    planned.push_back({tensor.name, tensor.shape, tensor.type});
  }
  report.num_tensors = static_cast<std::int64_t>(planned.size());
  GgufWriter writer(file, metadata, planned);
  std::size_t index = 0;
  for (const GgufTable& table : parameters.tables) {
    writer.write(index++, 0, std::as_bytes(std::span(table.values)));
  }
  std::vector<bool> written(plan.size(), false);
  if (options.calibration) {
    written =
        write_calibrated(model, plan, index, *options.calibration, options.progress, writer, report.notes);
  }
  for (std::size_t i = 0; i < plan.size(); ++i) {
    if (plan[i].made) {
      write_made(model, plan[i], index, writer);
    } else if (!written[i]) {
      write_tensor(model, plan[i], index, writer);
    }
    ++index;
    options.progress("export", static_cast<std::int64_t>(index), report.num_tensors);
  }
  writer.finish();
  report.bytes = writer.num_bytes();
  return report;
}

}  // namespace swiftprune
