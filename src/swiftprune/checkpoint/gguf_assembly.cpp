#include "swiftprune/checkpoint/gguf_assembly.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <sstream>

#include "swiftprune/checkpoint/gguf_fields.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kPiece = std::int64_t{1} << 18;  // elements, about
constexpr std::int64_t kMxBlock = 32, kMxBytes = 16;

void check_shape(const GgufFile& file, const GgufTensor& tensor, const std::vector<std::int64_t>& expected,
                 std::string_view from) {
  if (tensor.shape == expected) return;
  bad_input("{}: tensor {}: found shape [{}], expected [{}] from {}", file.name(), tensor.name,
            fmt::join(tensor.shape, ", "), fmt::join(expected, ", "), from);
}

// Rows [first, first + values.size() / cols) of a tensor seen as rows of its innermost extent.
void read_rows(const GgufFile& file, const GgufTensor& tensor, std::int64_t first, std::span<float> values) {
  const std::int64_t cols = tensor.shape.back();
  const std::int64_t row_bytes = cols / tensor.type->block_size * tensor.type->block_bytes;
  const std::int64_t rows = static_cast<std::int64_t>(values.size()) / cols;
  dequantize(*tensor.type, file.bytes(tensor).subspan(at(first * row_bytes), at(rows * row_bytes)), values);
}

std::string named(std::string_view pattern, std::int64_t block, std::int64_t expert = -1) {
  std::string name(pattern);
  if (const auto hash = name.find('#'); hash != std::string::npos)
    name.replace(hash, 1, std::to_string(expert));
  if (const auto star = name.find('*'); star != std::string::npos)
    name.replace(star, 1, std::to_string(block));
  return name;
}

class Assembler {
 public:
  Assembler(const GgufFile& file, const GgufArchitecture& architecture, bool keep_mxfp4, Json& config)
      : file_(file), architecture_(architecture), keep_mxfp4_(keep_mxfp4), config_(config) {}

  std::vector<AssembledTensor> run() {
    const std::int64_t blocks = config_.at("num_hidden_layers");
    if (keep_mxfp4_ && all_in_mxfp4()) {
      config_["quantization_config"] = {{"quant_method", "mxfp4"}};
    } else {
      keep_mxfp4_ = false;
    }
    const std::vector<GgufBlock> kinds = gguf_blocks(file_, architecture_.has_experts);
    for (std::int64_t block = 0; block < blocks; ++block) {
      if (kinds[at(block)].experts) experts_of(block);
    }
    activation_numbers(blocks);
    for (std::int64_t block = 0; block < blocks; ++block) {
      latent(block);
      for (const TensorRule& rule : architecture_.block_tensors) {
        if (!kinds[at(block)].has(rule.blocks)) continue;
        if (rule.form == TensorForm::kGateRows && !(rule.optional && find(block, rule.gguf) == nullptr))
          gate_and_up(block, rule);
        if (rule.form == TensorForm::kGroupedQkv) grouped(block, rule);
      }
    }
    return std::move(result_);
  }

 private:
  const GgufTensor* find(std::int64_t block, std::string_view stem, std::string_view part = "weight") const {
    return file_.find(fmt::format("blk.{}.{}.{}", block, stem, part));
  }
  const GgufTensor& require(std::int64_t block, std::string_view stem,
                            std::string_view part = "weight") const {
    const GgufTensor* tensor = find(block, stem, part);
    if (tensor == nullptr) bad_input("{}: tensor blk.{}.{}.{}: is missing", file_.name(), block, stem, part);
    return *tensor;
  }
  std::int64_t number(std::string_view key) const { return *file_.integer(gguf_fields::key_of(file_, key)); }

  std::int64_t count() const { return number("expert_count"); }
  std::int64_t hidden() const { return config_.at("hidden_size"); }
  const char* width_key() const {
    const bool own = file_.has(gguf_fields::key_of(file_, "expert_feed_forward_length"));
    return own ? "expert_feed_forward_length" : "feed_forward_length";
  }

  void experts_of(std::int64_t block) {
    check_router(block);
    if (architecture_.experts_by_input) return fused(block);
    const bool stacked = rule_of(TensorForm::kUpExperts).hugging_face.find('#') == std::string_view::npos;
    if (stacked) return together(block);
    for (const TensorRule& rule : architecture_.block_tensors) {
      if (rule.is_expert()) separate(block, rule);
    }
  }

  void check_router(std::int64_t block) const {
    constexpr std::string_view kFrom = "expert_count and embedding_length";
    check_shape(file_, require(block, "ffn_gate_inp"), {count(), hidden()}, kFrom);
    for (const char* name : {"ffn_gate_inp", "exp_probs_b"}) {
      if (const GgufTensor* bias = find(block, name, "bias"))
        check_shape(file_, *bias, {count()}, "expert_count");
    }
  }

  // [E, outputs, inputs] of the rule's part.
  const GgufTensor& experts(std::int64_t block, const TensorRule& rule) const {
    const GgufTensor& tensor = require(block, rule.gguf);
    const std::int64_t width = number(width_key());
    const bool down = rule.form == TensorForm::kDownExperts;
    check_shape(file_, tensor, {count(), down ? hidden() : width, down ? width : hidden()},
                fmt::format("expert_count, {} and embedding_length", width_key()));
    return tensor;
  }

  void separate(std::int64_t block, const TensorRule& rule) {
    const GgufTensor& tensor = experts(block, rule);
    const std::int64_t rows = tensor.shape[1], cols = tensor.shape[2];
    const std::int64_t step = std::clamp<std::int64_t>(kPiece / cols, 1, rows);
    for (std::int64_t e = 0; e < tensor.shape[0]; ++e) {
      result_.push_back({.name = named(rule.hugging_face, block, e) + ".weight",
                         .shape = {rows, cols},
                         .sources = {&tensor},
                         .piece = step * cols,
                         .values = [&file = file_, &tensor, first = e * rows, step](std::int64_t index,
                                                                                    std::span<float> values) {
                           read_rows(file, tensor, first + index * step, values);
                         }});
    }
  }

  // Rows of tensors [.., rows_i, cols], an expert at a time, one tensor's behind the other's.
  void behind_one_another(const std::string& name, const std::vector<const GgufTensor*>& parts,
                          std::int64_t experts) {
    const std::int64_t cols = parts.front()->shape.back();
    std::vector<std::int64_t> rows;
    std::int64_t together = 0;
    for (const GgufTensor* part : parts) {
      rows.push_back(part->shape[part->shape.size() - 2]);
      together += rows.back();
    }
    std::vector<std::int64_t> shape = {together, cols};
    if (parts.front()->shape.size() == 3) shape.insert(shape.begin(), experts);
    result_.push_back({.name = name,
                       .shape = shape,
                       .sources = parts,
                       .piece = together * cols,
                       .values = [&file = file_, parts, rows, cols](std::int64_t e, std::span<float> values) {
                         for (std::size_t p = 0; p < parts.size(); ++p) {
                           const std::size_t size = at(rows[p] * cols);
                           read_rows(file, *parts[p], e * rows[p], values.first(size));
                           values = values.subspan(size);
                         }
                       }});
  }

  // [E, 2I, hidden] of gate and up, [E, hidden, I] of down.
  void together(std::int64_t block) {
    const TensorRule &up = rule_of(TensorForm::kUpExperts), &down = rule_of(TensorForm::kDownExperts);
    behind_one_another(named(up.hugging_face, block),
                       {&experts(block, rule_of(TensorForm::kGateExperts)), &experts(block, up)}, count());
    behind_one_another(named(down.hugging_face, block), {&experts(block, down)}, count());
  }

  // A matrix of the block with so many rows and columns, of which each may be -1: as the file has it.
  const GgufTensor& matrix(std::int64_t block, std::string_view stem, std::int64_t rows,
                           std::string_view from) const {
    const GgufTensor& tensor = require(block, stem);
    const std::int64_t found = tensor.shape.empty() ? 0 : tensor.shape.front();
    check_shape(file_, tensor, {rows < 0 ? found : rows, hidden()}, from);
    return tensor;
  }

  // The rule of the other tensor that `rule`'s is made of.
  const TensorRule& partner_of(const TensorRule& rule, TensorForm form) const {
    const auto rules = architecture_.block_tensors;
    const auto found = std::find_if(rules.begin(), rules.end(), [&](const TensorRule& r) {
      return r.form == form && r.hugging_face == rule.hugging_face;
    });
    expect(found != rules.end(), "assemble_gguf: both parts of a tensor among the rules");
    return *found;
  }

  void gate_and_up(std::int64_t block, const TensorRule& rule) {
    const GgufTensor& gate = matrix(block, rule.gguf, -1, "embedding_length");
    const GgufTensor& up = matrix(block, partner_of(rule, TensorForm::kUpRows).gguf, gate.shape.front(),
                                  fmt::format("{} and embedding_length", rule.gguf));
    behind_one_another(named(rule.hugging_face, block) + ".weight", {&gate, &up}, 1);
  }

  // A key head's query, key, values and gates, from [all queries | all keys | all values] and [all gates].
  void grouped(std::int64_t block, const TensorRule& rule) {
    const std::int64_t heads = config_.at("linear_num_key_heads"), size = config_.at("linear_key_head_dim");
    const std::int64_t all_values = config_.at("linear_num_value_heads").get<std::int64_t>() *
                                    config_.at("linear_value_head_dim").get<std::int64_t>();
    const std::int64_t own = all_values / heads, cols = hidden(), keys = heads * size;
    constexpr std::string_view kFrom = "ssm.group_count, ssm.state_size, ssm.inner_size and embedding_length";
    const GgufTensor& qkv = matrix(block, rule.gguf, 2 * keys + all_values, kFrom);
    const GgufTensor& gate =
        matrix(block, partner_of(rule, TensorForm::kGroupedGate).gguf, all_values, kFrom);
    result_.push_back({.name = named(rule.hugging_face, block) + ".weight",
                       .shape = {2 * keys + 2 * all_values, cols},
                       .sources = {&qkv, &gate},
                       .piece = 2 * (size + own) * cols,
                       .values = [&file = file_, &qkv, &gate, size, own, keys, cols](std::int64_t head,
                                                                                     std::span<float> out) {
                         const auto take = [&](const GgufTensor& tensor, std::int64_t first,
                                               std::int64_t rows) {
                           read_rows(file, tensor, first, out.first(at(rows * cols)));
                           out = out.subspan(at(rows * cols));
                         };
                         take(qkv, head * size, size);
                         take(qkv, keys + head * size, size);
                         take(qkv, 2 * keys + head * own, own);
                         take(gate, head * own, own);
                       }});
  }

  void activation_numbers(std::int64_t blocks) {
    std::istringstream names{std::string(architecture_.activation_numbers)};
    for (std::string name; names >> name;) {
      const std::string key = gguf_fields::activation_key(name);
      if (!file_.has(key)) bad_input("{}: {}: is missing", file_.name(), key);
      const std::vector<double> numbers = file_.floats(key);
      if (numbers.size() != 1 && std::ssize(numbers) != blocks) {
        bad_input("{}: {}: found {} numbers, expected one, or one for each of the {} layers", file_.name(),
                  key, numbers.size(), blocks);
      }
      for (std::int64_t block = 0; block < blocks; ++block) {
        const auto number = static_cast<float>(numbers[numbers.size() == 1 ? 0 : at(block)]);
        if (!std::isfinite(number))
          bad_input("{}: {}: found {} in layer {}, expected a finite number", file_.name(), key, number,
                    block);
        const bool is_vector = name.starts_with("alpha");  // as transformers has them
        result_.push_back(
            {.name = fmt::format("model.layers.{}.mlp.act_fn.{}", block, name),
             .shape = is_vector ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{},
             .sources = {},
             .piece = 1,
             .values = [number](std::int64_t, std::span<float> values) { values[0] = number; }});
      }
    }
  }

  // A folder says it of all experts.
  bool all_in_mxfp4() const {
    if (!architecture_.experts_by_input) return false;
    const auto& tensors = file_.tensors();
    return std::all_of(tensors.begin(), tensors.end(), [](const GgufTensor& tensor) {
      return !tensor.name.ends_with("_exps.weight") || tensor.type->type == GgmlType::kMXFP4;
    });
  }

  const TensorRule& rule_of(TensorForm form) const {
    const auto rules = architecture_.block_tensors;
    const auto found =
        std::find_if(rules.begin(), rules.end(), [form](const TensorRule& r) { return r.form == form; });
    expect(found != rules.end(), "assemble_gguf: an architecture with all parts of an expert");
    return *found;
  }

  // gate_up_proj [E, hidden, 2I] with gate and up in turn, down_proj [E, I, hidden], and their biases.
  void fused(std::int64_t block) {
    const TensorRule &gate_rule = rule_of(TensorForm::kGateExperts),
                     &down_rule = rule_of(TensorForm::kDownExperts);
    const GgufTensor& gate = experts(block, gate_rule);
    const GgufTensor& up = experts(block, rule_of(TensorForm::kUpExperts));
    const GgufTensor& down = experts(block, down_rule);
    const std::string both = named(gate_rule.hugging_face, block),
                      single = named(down_rule.hugging_face, block);
    if (keep_mxfp4_) {
      mxfp4(both, {&gate, &up});
      mxfp4(single, {&down});
    } else {
      transposed(both, {&gate, &up});
      transposed(single, {&down});
    }
    bias(both + "_bias", block, {gate_rule.gguf, rule_of(TensorForm::kUpExperts).gguf}, gate.shape[1]);
    bias(single + "_bias", block, {down_rule.gguf}, down.shape[1]);
  }

  // [E, inputs, n·outputs] of n tensors [E, outputs, inputs].
  void transposed(const std::string& name, const std::vector<const GgufTensor*>& parts) {
    const std::int64_t rows = parts[0]->shape[1], cols = parts[0]->shape[2], n = std::ssize(parts);
    result_.push_back(
        {.name = name,
         .shape = {parts[0]->shape[0], cols, n * rows},
         .sources = parts,
         .piece = n * rows * cols,
         .values = [&file = file_, parts, rows, cols, n](std::int64_t e, std::span<float> values) {
           std::vector<float> matrix(at(rows * cols));
           for (std::int64_t p = 0; p < n; ++p) {
             read_rows(file, *parts[at(p)], e * rows, matrix);
             for (std::int64_t o = 0; o < rows; ++o) {
               for (std::int64_t i = 0; i < cols; ++i)
                 values[at((i * rows + o) * n + p)] = matrix[at(o * cols + i)];
             }
           }
         }});
  }

  // [E, n·size] of n biases [E, size], in turn.
  void bias(const std::string& name, std::int64_t block, const std::vector<std::string_view>& stems,
            std::int64_t size) {
    std::vector<const GgufTensor*> parts;
    for (const std::string_view stem : stems) {
      parts.push_back(&require(block, stem, "bias"));
      check_shape(file_, *parts.back(), {count(), size},
                  fmt::format("expert_count and {}", stems.size() > 1 ? width_key() : "embedding_length"));
    }
    const std::int64_t n = std::ssize(parts);
    result_.push_back({.name = name,
                       .shape = {count(), n * size},
                       .sources = parts,
                       .piece = n * size,
                       .values = [&file = file_, parts, size, n](std::int64_t e, std::span<float> values) {
                         std::vector<float> row(at(size));
                         for (std::int64_t p = 0; p < n; ++p) {
                           read_rows(file, *parts[at(p)], e, row);
                           for (std::int64_t o = 0; o < size; ++o) values[at(o * n + p)] = row[at(o)];
                         }
                       }});
  }

  // {name}_blocks [E, n·outputs, inputs/32, 16] and {name}_scales, rows of n tensors in turn. GGUF's block is the scale
  // and 16 bytes, whose lower halves are the first 16 numbers; Hugging Face's bytes are pairs of neighbours.
  void mxfp4(const std::string& name, const std::vector<const GgufTensor*>& parts) {
    const std::int64_t rows = parts[0]->shape[1], blocks = parts[0]->shape[2] / kMxBlock,
                       n = std::ssize(parts);
    const auto each_block = [&file = file_, parts, rows, blocks, n](std::int64_t e, const auto& use) {
      for (std::int64_t p = 0; p < n; ++p) {
        const auto source = file.bytes(*parts[at(p)]);
        for (std::int64_t o = 0; o < rows; ++o) {
          for (std::int64_t b = 0; b < blocks; ++b) {
            const std::byte* block = source.data() + ((e * rows + o) * blocks + b) * (kMxBytes + 1);
            use((o * n + p) * blocks + b, block);
          }
        }
      }
    };
    result_.push_back({.name = name + "_blocks",
                       .shape = {parts[0]->shape[0], n * rows, blocks, kMxBytes},
                       .sources = parts,
                       .piece = n * rows * blocks * kMxBytes,
                       .counts_sources = true,
                       .bytes = [each_block](std::int64_t e, std::span<std::byte> bytes) {
                         each_block(e, [&](std::int64_t index, const std::byte* block) {
                           std::byte* pairs = bytes.data() + index * kMxBytes;
                           const auto code = [&](std::int64_t i) {
                             const std::byte both = block[1 + i % kMxBytes];
                             return i < kMxBytes ? both & std::byte{15} : both >> 4;
                           };
                           for (std::int64_t i = 0; i < kMxBytes; ++i)
                             pairs[i] = code(2 * i) | code(2 * i + 1) << 4;
                         });
                       }});
    result_.push_back(
        {.name = name + "_scales",
         .shape = {parts[0]->shape[0], n * rows, blocks},
         .sources = parts,
         .piece = n * rows * blocks,
         .bytes = [each_block](std::int64_t e, std::span<std::byte> bytes) {
           each_block(e, [&](std::int64_t index, const std::byte* block) { bytes[at(index)] = block[0]; });
         }});
  }

  void latent(std::int64_t block) {
    const auto rules = architecture_.block_tensors;
    const auto rule =
        std::find_if(rules.begin(), rules.end(), [](const TensorRule& r) { return r.is_latent(); });
    if (rule == rules.end() || find(block, "attn_kv_b") != nullptr) return;
    const GgufTensor &keys = require(block, "attn_k_b"), &values = require(block, "attn_v_b");
    const std::int64_t heads = config_.at("num_attention_heads"), rank = config_.at("kv_lora_rank"),
                       plain = config_.at("qk_nope_head_dim"), value = config_.at("v_head_dim");
    constexpr std::string_view kFrom =
        "attention.head_count, kv_lora_rank, key_length_mla and value_length_mla";
    check_shape(file_, keys, {heads, rank, plain}, kFrom);
    check_shape(file_, values, {heads, value, rank}, kFrom);
    result_.push_back(
        {.name = named(rule->hugging_face, block) + ".weight",
         .shape = {heads * (plain + value), rank},
         .sources = {&keys, &values},
         .piece = (plain + value) * rank,
         .values = [&file = file_, &keys, &values, rank, plain, value](std::int64_t h, std::span<float> out) {
           std::vector<float> turned(at(rank * plain));
           read_rows(file, keys, h * rank, turned);
           for (std::int64_t r = 0; r < rank; ++r) {
             for (std::int64_t i = 0; i < plain; ++i) out[at(i * rank + r)] = turned[at(r * plain + i)];
           }
           read_rows(file, values, h * value, out.subspan(at(plain * rank)));
         }});
  }

  const GgufFile& file_;
  const GgufArchitecture& architecture_;
  bool keep_mxfp4_;
  Json& config_;
  std::vector<AssembledTensor> result_;
};

}  // namespace

std::int64_t AssembledTensor::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;  // no more than the sources hold
  return n;
}

std::vector<AssembledTensor> assemble_gguf(const GgufFile& file, const GgufArchitecture& architecture,
                                           bool keep_mxfp4, Json& config) {
  return Assembler(file, architecture, keep_mxfp4, config).run();
}

}  // namespace swiftprune
