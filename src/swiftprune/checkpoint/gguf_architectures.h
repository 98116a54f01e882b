// What a GGUF file calls the tensors and the hyper-parameters of each architecture, and what Hugging Face
// calls them: one descriptor per architecture. Sources: llama.cpp's convert_hf_to_gguf.py (what it changes on
// the way, undone here), transformers' configuration classes. docs/formats.md tells how to add one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/gguf.h"

namespace swiftprune {

// The rows of a stored tensor, against those of the Hugging Face tensor.
enum class RowOrder {
  kSame,
  kRotaryPairsOfQ,  // llama: in each query head the two halves of the rotary dimensions are interleaved
  kRotaryPairsOfK,  // the same, over the key heads
  kSplitQkv,        // gptneox: all q, all k, all v; Hugging Face has q, k, v for each head
  // qwen35: the value heads of gated DeltaNet, which stand key head by key head in Hugging Face, are the first of each key
  // head, then the second of each, ...; rows are those of the heads, one a head, or values behind queries and keys.
  kValueHeads,
  kOneAValueHead,
  kValuesBehindKeys,
};
constexpr bool is_of_value_heads(RowOrder order) { return order >= RowOrder::kValueHeads; }

// The sizes that say how rows move.
struct RowLayout {
  RowOrder order = RowOrder::kSame;
  std::int64_t heads = 0;  // query heads; for kRotaryPairsOfK key heads, for value heads these
  std::int64_t head_dim = 0;
  std::int64_t key_heads = 0;  // that share the value heads
  std::int64_t first = 0;      // rows in front, which stay

  std::int64_t rows() const { return first + heads * head_dim * (order == RowOrder::kSplitQkv ? 3 : 1); }
};
// Of value heads: `order` of a mixer with these sizes.
RowLayout value_head_layout(RowOrder order, std::int64_t key_heads, std::int64_t value_heads,
                            std::int64_t key_size, std::int64_t value_size);
// The stored row of a row of the Hugging Face tensor.
std::int64_t stored_row(const RowLayout& layout, std::int64_t row);

// How a stored tensor lies in the Hugging Face folder.
enum class TensorForm {
  kPlain,      // as one tensor
  kWholeName,  // the same; both names of the rule are whole, with ".weight" or ".bias" or without
  kOneRow,     // a vector, there a matrix of one row
  // [E, outputs, inputs]: the experts of a block. hugging_face is the name of one, "#" its number; without "#" that of
  // a tensor that holds all experts (GgufArchitecture::experts_by_input).
  kGateExperts,
  kUpExperts,
  kDownExperts,
  // [heads, rank, plain size] and [heads, value size, rank] of one kv_b_proj, whose rows are a head's key part and
  // value in turn (LatentAttention in model/model_config.h); the key part lies transposed.
  kLatentKeys,
  kLatentValues,
  kConvolution,  // [channels, taps], there [channels, 1, taps]
  kColumn,       // [n, 1], there [n]; both names of the rule are whole
  kGroups,       // [groups, n/groups], there [n]
  // Two tensors of one: its first rows and its last (gate over up); a linear of gated DeltaNet that holds, for each key
  // head, its query and key with its values, and their gates.
  kGateRows,
  kUpRows,
  kGroupedQkv,
  kGroupedGate,
};

// What becomes of the values: kMinusExp stores -e^x (decays).
enum class TensorValues { kSame, kMinusExp };

// Which blocks have it: all; those with an MLP, or with experts in its place; those with attention, or with another
// mixer in its place; those that the file has it for.
enum class TensorBlocks { kAll, kDense, kSparse, kAttention, kMixer, kSome };

struct TensorRule {
  std::string_view gguf;          // without "blk.N." and ".weight"
  std::string_view hugging_face;  // "*" stands for the block; empty: not a weight of the model
  std::string_view bias =
      "none";  // "none", "required", or the config field that says whether there are biases
  RowOrder order = RowOrder::kSame;
  float offset = 0.0f;  // added to the stored values of weights, not to those of biases
  TensorForm form = TensorForm::kPlain;
  TensorBlocks blocks = TensorBlocks::kAll;
  bool optional = false;  // all of its blocks have it, or none
  TensorValues values = TensorValues::kSame;
  RowOrder columns = RowOrder::kSame;  // of a matrix whose inputs are those rows

  bool has_whole_names() const { return form == TensorForm::kWholeName || form == TensorForm::kColumn; }
  // Is the Hugging Face tensor made of others, or one of several made of it?
  bool is_made() const {
    return is_expert() || is_latent() || (form >= TensorForm::kGateRows && form <= TensorForm::kGroupedGate);
  }
  bool is_expert() const { return form >= TensorForm::kGateExperts && form <= TensorForm::kDownExperts; }
  bool is_latent() const { return form == TensorForm::kLatentKeys || form == TensorForm::kLatentValues; }
};

struct ConfigField {
  // kLargest: an integer, or one for each layer, of which config.json names the largest. kPositive: a number above 0; kNumber: or 0,
  // which is none of it.
  enum class Type { kInteger, kLargest, kNumber, kPositive, kBoolean };
  std::string_view hugging_face;
  std::string_view gguf;  // after "<architecture>."
  Type type = Type::kInteger;
  bool required = true;
};

struct GgufArchitecture {
  std::string_view name;         // general.architecture
  std::string_view model_type;   // config.json
  std::string_view model_class;  // config.json
  std::string_view constants;    // a JSON object: what every model of this architecture has in config.json
  std::span<const ConfigField> fields;
  std::span<const TensorRule> model_tensors;
  std::span<const TensorRule> block_tensors;
  // Adds to config what the tables cannot say.
  void (*complete)(const GgufFile& file, nlohmann::ordered_json& config);
  std::string_view default_pre_tokenizer;  // for byte-level files from before tokenizer.ggml.pre
  bool overflows_in_f16 = false;  // its hidden states, not its weights: other tools must compute in bf16
  std::string_view own_keys =
      {};  // that it reads beside those of `fields`, after "<architecture>."; blanks between
  bool has_experts = false;  // two may share a name: expert_count tells them apart
  // Experts are those of gpt-oss: fused tensors [E, inputs, outputs] with gate and up in turn, or MXFP4.
  bool experts_by_input = false;
  // Pairs of names: what `fields` call a field, and what config.json does in the end.
  std::string_view own_names = {};
  // A family's own names in an architecture of others: of files alone whose rope.scaling.finetuned is false (Granite 4,
  // which need not rotate). Others of the family come back as theirs.
  bool unrotated = false;
  // Numbers that are keys of the file, one a block or one for all, and tensors of one number there: what the keys are
  // called behind "xielu." (llama.cpp's own prefix), and the tensors behind "model.layers.N.mlp.act_fn."; blanks between.
  std::string_view activation_numbers = {};
};

std::span<const GgufArchitecture> gguf_architectures();
// Those of the files gguf_llama_like.cpp, gguf_other_norms.cpp, gguf_experts.cpp, gguf_hybrids.cpp, gguf_mamba.cpp,
// gguf_delta_net.cpp and gguf_gemma4.cpp.
std::span<const GgufArchitecture> gguf_llama_like();
std::span<const GgufArchitecture> gguf_other_norms();
std::span<const GgufArchitecture> gguf_with_experts();
std::span<const GgufArchitecture> gguf_hybrids();
std::span<const GgufArchitecture> gguf_mamba();
std::span<const GgufArchitecture> gguf_delta_net();
std::span<const GgufArchitecture> gguf_gemma4();
// Throws Error{kBadInput} with the list of those that are known.
const GgufArchitecture& gguf_architecture_of(const GgufFile& file);

// config.json but for dtype, biases and special tokens.
nlohmann::ordered_json gguf_config(const GgufFile& file, const GgufArchitecture& architecture);

// Blocks behind the model's own that predict further tokens (nextn_predict_layers, counted by block_count).
std::int64_t gguf_extra_blocks(const GgufFile& file);
// The first blocks, which have no experts (leading_dense_block_count).
std::int64_t gguf_dense_blocks(const GgufFile& file);

// What a block has.
struct GgufBlock {
  bool attention = true;
  bool mixer = false;  // another one, in attention's place
  bool dense = true;   // an MLP that is no experts'
  bool experts = false;

  bool has(TensorBlocks blocks) const;
};
// attention.head_count_kv has a 0 for a block without attention, or full_attention_interval says that every so manieth
// has it; where feed_forward_length has zeros, a block is an MLP or a mixer alone.
std::vector<GgufBlock> gguf_blocks(const GgufFile& file, bool has_experts);

}  // namespace swiftprune
