#include "swiftprune/checkpoint/import_gguf.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/gguf_architectures.h"
#include "swiftprune/checkpoint/gguf_assembly.h"
#include "swiftprune/checkpoint/gguf_tokenizer.h"
#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/tensor_names.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

// One tensor's way from the file to the folder.
struct TensorPlan {
  const GgufTensor* source;
  const TensorRule* rule;
  std::string name;    // Hugging Face's
  std::int64_t block;  // -1: none

  std::vector<std::int64_t> shape() const {
    if (rule->form == TensorForm::kOneRow) return {1, source->numel()};
    if (rule->form == TensorForm::kConvolution && source->shape.size() == 2)
      return {source->shape[0], 1, source->shape[1]};
    if (rule->form == TensorForm::kColumn || rule->form == TensorForm::kGroups) return {source->numel()};
    return source->shape;
  }
  float offset() const { return source->name.ends_with(".bias") ? 0.0f : rule->offset; }
};

// A GGUF name taken apart: "blk.7.attn_q.bias" is block 7, "attn_q", bias; "blk.7.ssm_a" has no part.
struct TensorName {
  std::int64_t block = -1;
  std::string_view whole;  // behind the block
  std::string_view stem;
  std::string_view part;  // "weight", "bias" or nothing
};

std::optional<TensorName> parse_name(std::string_view name) {
  TensorName parsed;
  if (name.starts_with("blk.")) {
    const char* first = name.data() + 4;
    const char* last = name.data() + name.size();
    const auto [end, error] = std::from_chars(first, last, parsed.block);
    if (error != std::errc() || end == last || *end != '.' || parsed.block < 0) return std::nullopt;
    name.remove_prefix(static_cast<std::size_t>(end + 1 - name.data()));
  }
  parsed.whole = parsed.stem = name;
  const auto dot = name.rfind('.');
  if (dot == std::string_view::npos) return parsed;
  parsed.stem = name.substr(0, dot);
  parsed.part = name.substr(dot + 1);
  if (parsed.part != "weight" && parsed.part != "bias") return std::nullopt;
  return parsed;
}

std::string hugging_face_name(const TensorRule& rule, const TensorName& name) {
  std::string result(rule.hugging_face);
  if (const auto star = result.find('*'); star != std::string::npos) {
    result.replace(star, 1, std::to_string(name.block));
  }
  return rule.has_whole_names() ? result : result + "." + std::string(name.part);
}

// The rule's own suffixes in the file.
bool names(const TensorRule& rule, const TensorName& name) {
  if (rule.has_whole_names()) return rule.gguf == name.whole;
  return rule.gguf == name.stem && (name.part == "weight" || (name.part == "bias" && rule.bias != "none"));
}

// Has the block a tensor of this rule? Of those behind the file's number of blocks nothing is known.
bool have(const std::vector<GgufBlock>& blocks, const TensorRule& rule, std::int64_t block) {
  return block >= std::ssize(blocks) || blocks[static_cast<std::size_t>(block)].has(rule.blocks);
}

// Tensors that are assembled (gguf_assembly.h) are not among them. notes gets what is left out.
std::vector<TensorPlan> plan_tensors(const GgufFile& file, const GgufArchitecture& architecture,
                                     const Json& config, std::vector<std::string>& notes) {
  const std::int64_t num_blocks = config.at("num_hidden_layers"), extra_blocks = gguf_extra_blocks(file);
  const std::vector<GgufBlock> blocks = gguf_blocks(file, architecture.has_experts);
  std::vector<TensorPlan> plan;
  std::int64_t left_out = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    const auto name = parse_name(tensor.name);
    if (name && name->block >= num_blocks && name->block < num_blocks + extra_blocks) {
      ++left_out;
      continue;
    }
    const auto rules = name && name->block >= 0 ? architecture.block_tensors : architecture.model_tensors;
    const auto rule = std::find_if(rules.begin(), rules.end(), [&](const TensorRule& r) {
      return name && names(r, *name) && (name->block < 0 || have(blocks, r, name->block));
    });
    if (rule == rules.end()) {
      bad_input("{}: tensor {}: not a tensor of the architecture {} that swiftprune knows", file.name(),
                tensor.name, architecture.name);
    }
    if (name->block >= num_blocks) {
      bad_input("{}: tensor {}: found block {}, but block_count is {}", file.name(), tensor.name, name->block,
                num_blocks);
    }
    if (!rule->hugging_face.empty() && !rule->is_made()) {
      plan.push_back({&tensor, &*rule, hugging_face_name(*rule, *name), name->block});
    }
  }
  if (left_out > 0) {
    notes.push_back(
        fmt::format("{} tensors of {} are left out: the blocks behind the model's predict further "
                    "tokens, which transformers' classes do not read",
                    left_out, extra_blocks == 1 ? "a block" : fmt::format("{} blocks", extra_blocks)));
  }
  return plan;
}

// Is the first tensor of the rule, or its bias, there?
bool is_in_first(const GgufFile& file, const std::vector<GgufBlock>& blocks, const TensorRule& rule,
                 std::string_view part) {
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    if (!blocks[b].has(rule.blocks)) continue;
    const char* dot = part.empty() ? "" : ".";
    return file.find(fmt::format("blk.{}.{}{}{}", b, rule.gguf, dot, part)) != nullptr;
  }
  return false;
}

// Sets the config's bias flags from the biases found, and sees to it that no tensor is missing.
void check_complete(const GgufFile& file, const GgufArchitecture& architecture, Json& config) {
  const std::int64_t num_blocks = config.at("num_hidden_layers");
  const std::vector<GgufBlock> blocks = gguf_blocks(file, architecture.has_experts);
  for (const TensorRule& rule : architecture.block_tensors) {
    if (rule.bias == "none" || rule.bias == "required") continue;
    const std::string field(rule.bias);
    config[field] = is_in_first(file, blocks, rule, "bias") || config.value(field, false);
  }
  const auto require = [&](const TensorRule& rule, const std::string& prefix, bool optional) {
    if (rule.hugging_face.empty()) return;
    const auto check = [&](const std::string& name, bool needed) {
      if (needed != (file.find(name) != nullptr)) {
        bad_input("{}: tensor {}: {}", file.name(), name, needed ? "is missing" : "was not expected");
      }
    };
    if (rule.has_whole_names()) return check(prefix + std::string(rule.gguf), !optional);
    const bool has_bias =
        rule.bias == "required" || (rule.bias != "none" && config.at(std::string(rule.bias)).get<bool>());
    for (const char* part : {"weight", "bias"}) {
      const bool needed = std::string_view(part) == "weight" || has_bias;
      check(fmt::format("{}{}.{}", prefix, rule.gguf, part), needed && !optional);
    }
  };
  for (const TensorRule& rule : architecture.model_tensors) {
    const bool absent = rule.optional && file.find(fmt::format("{}.weight", rule.gguf)) == nullptr;
    if (rule.gguf != "output") require(rule, "", absent);  // without it the head is the embedding
  }
  for (const TensorRule& rule : architecture.block_tensors) {
    const char* part = rule.has_whole_names() ? "" : "weight";
    const bool absent = rule.optional && !is_in_first(file, blocks, rule, part);
    for (std::int64_t b = 0; b < num_blocks && rule.blocks != TensorBlocks::kSome; ++b) {
      if (have(blocks, rule, b)) require(rule, fmt::format("blk.{}.", b), absent);
    }
  }
}

DType choose_dtype(const GgufFile& file, bool experts_stay) {
  std::map<GgmlType, std::int64_t> elements;
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.shape.size() > 1) elements[tensor.type->type] += tensor.numel();
  }
  // Its values are exact in BF16; where experts stay in it, the others decide.
  const auto mxfp4 = elements.find(GgmlType::kMXFP4);
  if (mxfp4 != elements.end() && experts_stay) elements.erase(mxfp4);
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == elements.end()) return DType::kF16;
  return most->first == GgmlType::kBF16 || most->first == GgmlType::kMXFP4 ? DType::kBF16
         : most->first == GgmlType::kF32                                   ? DType::kF32
                                                                           : DType::kF16;
}

// Key heads of a block; there may be a number for each ("swiftprune_layer_sizes").
std::int64_t groups_in(const Json& config, std::int64_t block) {
  const auto sizes = config.find("swiftprune_layer_sizes");
  if (sizes == config.end() || !sizes->contains("num_key_value_heads")) {
    return config.at("num_key_value_heads");
  }
  return sizes->at("num_key_value_heads").at(static_cast<std::size_t>(block));
}

RowLayout value_head_layout(RowOrder order, const Json& config) {
  return value_head_layout(order, config.at("linear_num_key_heads"), config.at("linear_num_value_heads"),
                           config.at("linear_key_head_dim"), config.at("linear_value_head_dim"));
}

RowLayout layout_of(RowOrder order, std::int64_t block, const Json& config) {
  if (order == RowOrder::kSame) return {};
  if (is_of_value_heads(order)) return value_head_layout(order, config);
  const std::int64_t hidden = config.at("hidden_size"), heads = config.at("num_attention_heads");
  RowLayout layout{.order = order, .heads = heads, .head_dim = hidden / heads};
  if (config.contains("head_dim")) layout.head_dim = config.at("head_dim");
  if (order == RowOrder::kSplitQkv) return layout;
  const std::int64_t groups = config.at("num_key_value_heads"), own = groups_in(config, block);
  layout.heads = order == RowOrder::kRotaryPairsOfK ? own : heads / groups * own;
  return layout;
}

// For each row of the Hugging Face tensor, the row of the stored one, and so for its columns.
class RowMap {
 public:
  RowMap(const GgufFile& file, const TensorPlan& plan, const Json& config)
      : rows_(layout_of(plan.rule->order, plan.block, config)),
        columns_(layout_of(plan.rule->columns, plan.block, config)) {
    const GgufTensor& tensor = *plan.source;
    if (moves_columns() && (tensor.shape.size() != 2 || tensor.shape[1] != columns_.rows())) {
      bad_input("{}: tensor {}: found {} columns, expected {} for {} heads of {}", file.name(), tensor.name,
                tensor.shape.back(), columns_.rows(), columns_.heads, columns_.head_dim);
    }
    if (rows_.order == RowOrder::kSame) return;
    const bool odd_pairs =
        (rows_.order == RowOrder::kRotaryPairsOfQ || rows_.order == RowOrder::kRotaryPairsOfK) &&
        rows_.head_dim % 2 != 0;
    if (tensor.shape[0] != rows_.rows() || odd_pairs) {
      bad_input("{}: tensor {}: found {} rows, expected {} for {} heads of {}", file.name(), tensor.name,
                tensor.shape[0], rows_.rows(), rows_.heads, rows_.head_dim);
    }
    if (tensor.shape.size() == 1 && tensor.type->block_size != 1) {
      bad_input("{}: tensor {}: found the type {} for a vector, expected F32, F16 or BF16", file.name(),
                tensor.name, tensor.type->name);
    }
  }

  std::int64_t stored_row(std::int64_t row) const { return swiftprune::stored_row(rows_, row); }
  bool moves_columns() const { return columns_.order != RowOrder::kSame; }
  // A stored row in the order of the Hugging Face tensor.
  void sort_columns(std::span<float> row) const {
    const std::vector<float> stored(row.begin(), row.end());
    for (std::size_t c = 0; c < row.size(); ++c)
      row[c] =
          stored[static_cast<std::size_t>(swiftprune::stored_row(columns_, static_cast<std::int64_t>(c)))];
  }

 private:
  RowLayout rows_, columns_;
};

// Decays from what they are computed to: the logarithm of what the file has with a minus.
void to_logarithms(const GgufFile& file, const GgufTensor& tensor, std::span<float> values) {
  for (float& value : values) {
    if (!(value < 0.0f))
      bad_input("{}: tensor {}: found {}, expected less than 0", file.name(), tensor.name, value);
    value = static_cast<float>(std::log(-double{value}));
  }
}

void check_values(const GgufFile& file, const GgufTensor& tensor, std::span<const float> values,
                  DType dtype) {
  constexpr float kLargestF16 = 65519.996f;  // rounds to 65504
  for (const float value : values) {
    if (!std::isfinite(value))
      bad_input("{}: tensor {}: found {}, expected finite values", file.name(), tensor.name, value);
    if (dtype == DType::kF16 && std::abs(value) > kLargestF16) {
      bad_input("{}: tensor {}: found {}, which f16 cannot hold; import it with --dtype bf16", file.name(),
                tensor.name, value);
    }
  }
}

// The tokenizer's files of a Hugging Face folder, taken as they are.
void copy_tokenizer(const fs::path& folder, CheckpointWriter& writer) {
  constexpr std::array kNames = {"tokenizer.json",
                                 "tokenizer.model",
                                 "tokenizer_config.json",
                                 "special_tokens_map.json",
                                 "added_tokens.json",
                                 "vocab.json",
                                 "merges.txt",
                                 "chat_template.jinja"};
  bool found = false;
  for (const char* name : kNames) {
    std::error_code ignored;
    if (!fs::exists(folder / name, ignored)) continue;
    const MappedFile content(folder / name);
    writer.write_file(name, {reinterpret_cast<const char*>(content.bytes().data()), content.bytes().size()});
    found = found || std::string_view(name) == "tokenizer.json" ||
            std::string_view(name) == "tokenizer.model" || std::string_view(name) == "merges.txt";
  }
  if (!found)
    bad_input("{}: found neither tokenizer.json nor tokenizer.model nor merges.txt", folder.string());
}

void add_special_tokens(const SpecialTokens& special, Json& config, Json& generation) {
  generation["_from_model_config"] = true;
  const std::pair<const char*, std::optional<std::int64_t>> entries[] = {
      {"bos_token_id", special.bos}, {"eos_token_id", special.eos}, {"pad_token_id", special.padding}};
  for (const auto& [name, id] : entries) {
    config[name] = id ? Json(*id) : Json();
    if (id) generation[name] = *id;
  }
  // A chat model stops at either.
  if (special.eos && special.end_of_turn && *special.eos != *special.end_of_turn) {
    generation["eos_token_id"] = {*special.eos, *special.end_of_turn};
  }
}

// A router's correction bias chooses experts by small differences, as decays make large ones over many tokens: they stay
// as exact as they are stored, as in DeepSeek's own files.
DType dtype_of(const TensorPlan& tensor, DType dtype) {
  const std::string_view name = tensor.rule->hugging_face;
  const bool is_exact = name.ends_with("e_score_correction_bias") || name.ends_with("expert_bias") ||
                        tensor.rule->values == TensorValues::kMinusExp;
  return is_exact && tensor.source->type->type == GgmlType::kF32 ? DType::kF32 : dtype;
}

// The fields by which the code above knows a model become those of its class.
void take_own_names(std::string_view names, Json& config) {
  for (std::istringstream pairs{std::string(names)}; !pairs.eof();) {
    std::string known, own;
    if (!(pairs >> known >> own)) return;
    config[own] = config.at(known);
    config.erase(known);
  }
}

std::string torch_name(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

}  // namespace

struct GgufModel::Impl {
  explicit Impl(GgufFile f) : file(std::move(f)) {}

  GgufFile file;
  const GgufArchitecture* architecture = nullptr;
  std::string architecture_name, model_class;
  Json config, generation;
  DType dtype = DType::kF16;
  std::vector<TensorPlan> plan;
  std::vector<RowMap> rows;                // of the plan's tensors
  std::vector<AssembledTensor> assembled;  // behind the plan's
  std::vector<Tensor> tensors;             // all of them
  std::vector<std::string> notes;

  // A vector that keeps its order is one row, so that its blocks stay whole.
  bool is_one_row(std::size_t tensor) const {
    return plan[tensor].source->shape.size() == 1 && plan[tensor].rule->order == RowOrder::kSame;
  }
  std::int64_t num_rows(std::size_t tensor) const {
    return is_one_row(tensor) ? 1 : plan[tensor].source->shape[0];
  }
  std::int64_t row_size(std::size_t tensor) const {
    const std::int64_t count = num_rows(tensor);
    return count == 0 ? 0 : plan[tensor].source->numel() / count;
  }

  // Nothing: a tensor of the plan.
  const AssembledTensor* find_assembled(std::size_t tensor) const {
    return tensor < plan.size() ? nullptr : &assembled.at(tensor - plan.size());
  }

  void list_tensors() {
    for (const TensorPlan& tensor : plan)
      tensors.push_back({tensor.name, dtype_of(tensor, dtype), tensor.shape(), tensor.source->numel()});
    for (const AssembledTensor& tensor : assembled) {
      std::int64_t parameters = tensor.bytes ? 0 : tensor.numel();
      if (tensor.counts_sources) {
        for (const GgufTensor* source : tensor.sources) parameters += source->numel();
      }
      tensors.push_back({tensor.name, tensor.bytes ? DType::kU8 : dtype, tensor.shape, parameters});
    }
  }

  void make_piece(const AssembledTensor& tensor, std::int64_t index, std::span<std::byte> bytes) const {
    if (tensor.bytes) return tensor.bytes(index, bytes);
    std::vector<float> values(bytes.size() / static_cast<std::size_t>(size_of(dtype)));
    tensor.values(index, values);
    if (!tensor.sources.empty()) check_values(file, *tensor.sources.front(), values, dtype);
    convert_from_f32(values, dtype, bytes);
  }

  void read_pieces(const AssembledTensor& tensor, const Taker& take) const {
    const std::int64_t total = tensor.numel(), pieces = (total + tensor.piece - 1) / tensor.piece;
    parallel_for(pieces, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t index = begin; index < end; ++index) {
        check_interrupt();
        const std::int64_t first = index * tensor.piece;
        const auto size = static_cast<std::size_t>(std::min(tensor.piece, total - first));
        std::vector<std::byte> bytes(size * static_cast<std::size_t>(tensor.bytes ? 1 : size_of(dtype)));
        make_piece(tensor, index, bytes);
        take(first, bytes);
      }
    });
  }
};

GgufModel::GgufModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufModel::GgufModel(GgufModel&&) noexcept = default;
GgufModel& GgufModel::operator=(GgufModel&&) noexcept = default;
GgufModel::~GgufModel() = default;

GgufModel GgufModel::open(const fs::path& path, std::optional<DType> dtype) {
  auto impl = std::make_unique<Impl>(GgufFile::open(path));
  const GgufFile& file = impl->file;
  impl->architecture = &gguf_architecture_of(file);
  impl->architecture_name = impl->architecture->name;
  impl->config = gguf_config(file, *impl->architecture);
  impl->plan = plan_tensors(file, *impl->architecture, impl->config, impl->notes);
  check_complete(file, *impl->architecture, impl->config);
  impl->assembled = assemble_gguf(file, *impl->architecture, !dtype.has_value(), impl->config);
  impl->model_class = impl->config.at("architectures").at(0).get<std::string>();
  for (const TensorPlan& tensor : impl->plan) impl->rows.emplace_back(file, tensor, impl->config);
  impl->dtype = dtype.value_or(choose_dtype(file, impl->config.contains("quantization_config")));
  const bool compute_in_bf16 = impl->architecture->overflows_in_f16 && impl->dtype == DType::kF16;
  impl->config["torch_dtype"] = torch_name(compute_in_bf16 ? DType::kBF16 : impl->dtype);
  add_special_tokens(gguf_special_tokens(file, impl->config.at("vocab_size")), impl->config,
                     impl->generation);
  impl->list_tensors();
  take_own_names(impl->architecture->own_names, impl->config);
  return GgufModel(std::move(impl));
}

const std::string& GgufModel::architecture() const { return impl_->architecture_name; }
const std::string& GgufModel::model_class() const { return impl_->model_class; }
DType GgufModel::dtype() const { return impl_->dtype; }
const Json& GgufModel::config() const { return impl_->config; }
const Json& GgufModel::generation_config() const { return impl_->generation; }
const std::vector<std::string>& GgufModel::notes() const { return impl_->notes; }
const std::vector<GgufModel::Tensor>& GgufModel::tensors() const { return impl_->tensors; }

TokenizerFiles GgufModel::tokenizer_files() const {
  return make_tokenizer_files(impl_->file, impl_->config.at("vocab_size"),
                              impl_->architecture->default_pre_tokenizer);
}

std::string GgufModel::stored_types() const {
  std::map<std::string_view, std::int64_t> counts;
  for (const GgufTensor& tensor : impl_->file.tensors()) ++counts[tensor.type->name];
  std::vector<std::string> parts;
  for (const auto& [name, count] : counts) parts.push_back(fmt::format("{} {}", count, name));
  return fmt::format("{} tensors", fmt::join(parts, ", "));
}

bool GgufModel::has_rows(std::size_t tensor) const {
  const AssembledTensor* assembled = impl_->find_assembled(tensor);
  if (assembled != nullptr) {
    return !assembled->shape.empty() && assembled->piece * assembled->shape.front() == assembled->numel();
  }
  return impl_->num_rows(tensor) == impl_->tensors[tensor].shape.front();
}

void GgufModel::read_rows(std::size_t tensor, std::int64_t first, std::int64_t count,
                          std::span<std::byte> values) const {
  if (const AssembledTensor* assembled = impl_->find_assembled(tensor)) {
    expect(has_rows(tensor), "GgufModel::read_rows: a tensor with rows");
    const auto row_bytes = static_cast<std::size_t>(assembled->piece * size_of(impl_->tensors[tensor].dtype));
    expect(first >= 0 && count >= 0 && first + count <= assembled->shape.front() &&
               values.size() == static_cast<std::size_t>(count) * row_bytes,
           "GgufModel::read_rows: rows of the tensor");
    for (std::int64_t r = 0; r < count; ++r)
      impl_->make_piece(*assembled, first + r,
                        values.subspan(static_cast<std::size_t>(r) * row_bytes, row_bytes));
    return;
  }
  const TensorPlan& plan = impl_->plan[tensor];
  const GgmlTypeTraits& type = *plan.source->type;
  const DType dtype = impl_->tensors[tensor].dtype;
  const std::int64_t size = impl_->row_size(tensor);
  expect(first >= 0 && count >= 0 && first + count <= impl_->num_rows(tensor) &&
             std::ssize(values) == count * size * size_of(dtype),
         "GgufModel::read_rows: rows of the tensor");
  const auto row_bytes = static_cast<std::size_t>(size / type.block_size * type.block_bytes);
  const auto blocks = impl_->file.bytes(*plan.source);
  std::vector<float> floats(static_cast<std::size_t>(count * size));
  for (std::int64_t r = 0; r < count; ++r) {
    const auto stored =
        static_cast<std::size_t>(impl_->is_one_row(tensor) ? 0 : impl_->rows[tensor].stored_row(first + r));
    dequantize(type, blocks.subspan(stored * row_bytes, row_bytes),
               std::span(floats).subspan(static_cast<std::size_t>(r * size), static_cast<std::size_t>(size)));
    if (impl_->rows[tensor].moves_columns()) {
      impl_->rows[tensor].sort_columns(
          std::span(floats).subspan(static_cast<std::size_t>(r * size), static_cast<std::size_t>(size)));
    }
  }
  if (const float offset = plan.offset(); offset != 0.0f) {
    for (float& value : floats) value += offset;
  }
  if (plan.rule->values == TensorValues::kMinusExp) to_logarithms(impl_->file, *plan.source, floats);
  check_values(impl_->file, *plan.source, floats, dtype);
  convert_from_f32(floats, dtype, values);
}

void GgufModel::read_all(std::size_t tensor, const Taker& take) const {
  if (const AssembledTensor* assembled = impl_->find_assembled(tensor))
    return impl_->read_pieces(*assembled, take);
  const std::int64_t size = impl_->row_size(tensor);
  parallel_for(impl_->num_rows(tensor),
               std::max<std::int64_t>(1, kConversionChunk / std::max<std::int64_t>(1, size)),
               [&](std::int64_t first, std::int64_t last) {
                 check_interrupt();
                 std::vector<std::byte> values(
                     static_cast<std::size_t>((last - first) * size * size_of(impl_->tensors[tensor].dtype)));
                 read_rows(tensor, first, last - first, values);
                 take(first * size, values);
               });
}

std::optional<std::span<const std::byte>> GgufModel::as_it_lies(std::size_t tensor) const {
  if (impl_->find_assembled(tensor) != nullptr) return std::nullopt;
  const TensorPlan& plan = impl_->plan[tensor];
  const GgmlType type = plan.source->type->type;
  const DType dtype = impl_->tensors[tensor].dtype;
  const bool same =
      plan.rule->order == RowOrder::kSame && plan.rule->columns == RowOrder::kSame && plan.offset() == 0.0f &&
      plan.rule->values == TensorValues::kSame &&
      ((type == GgmlType::kF32 && dtype == DType::kF32) || (type == GgmlType::kF16 && dtype == DType::kF16) ||
       (type == GgmlType::kBF16 && dtype == DType::kBF16));
  return same ? std::optional(impl_->file.bytes(*plan.source)) : std::nullopt;
}

void GgufModel::release(std::size_t tensor) const {
  const AssembledTensor* assembled = impl_->find_assembled(tensor);
  if (assembled == nullptr) return impl_->file.release(*impl_->plan[tensor].source);
  // Several tensors may be made of one; its pages are read again then.
  for (const GgufTensor* source : assembled->sources) impl_->file.release(*source);
}

ImportReport import_gguf(const fs::path& path, const fs::path& folder, const ImportOptions& options) {
  const GgufModel model = GgufModel::open(path, options.dtype);
  ImportReport report;
  report.architecture = model.architecture();
  report.model_class = model.model_class();
  report.dtype = model.dtype();
  report.notes = model.notes();
  TokenizerFiles tokenizer;
  if (options.tokenizer_folder.empty()) {
    options.progress("tokenizer", 0, 0);
    tokenizer = model.tokenizer_files();
    report.notes.insert(report.notes.end(), tokenizer.notes.begin(), tokenizer.notes.end());
  }

  const nlohmann::json config = model.config();
  std::vector<PlannedTensor> planned;
  for (const GgufModel::Tensor& tensor : model.tensors()) {
    const bool turned = tensor.shape.size() == 2 && is_stored_transposed(config, tensor.name);
    planned.push_back({tensor.name, tensor.dtype, tensor.shape, "", false, turned});
    report.num_parameters += tensor.num_parameters;
    report.bytes += tensor.num_bytes();
  }
  report.num_tensors = std::ssize(planned);
  assign_shards(planned, options.max_shard_bytes);
  CheckpointWriter writer(folder, std::move(planned));
  for (std::size_t i = 0; i < model.tensors().size(); ++i) {
    model.read_all(i, [&](std::int64_t first, std::span<const std::byte> values) {
      writer.write_bytes_part(model.tensors()[i].name, first, values);
    });
    model.release(i);
    options.progress("import", static_cast<std::int64_t>(i) + 1, report.num_tensors);
  }
  writer.write_file("config.json", model.config().dump(2) + "\n");
  writer.write_file("generation_config.json", model.generation_config().dump(2) + "\n");
  if (!options.tokenizer_folder.empty()) {
    copy_tokenizer(options.tokenizer_folder, writer);
  } else {
    for (const auto& [name, text] : tokenizer.named()) writer.write_file(name, text);
  }
  writer.finish();
  return report;
}

std::uint64_t GgufModel::Tensor::num_bytes() const {
  std::uint64_t count = static_cast<std::uint64_t>(size_of(dtype));
  for (const std::int64_t extent : shape)
    count *= static_cast<std::uint64_t>(extent);  // checked: of the file
  return count;
}

}  // namespace swiftprune
