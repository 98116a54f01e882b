// What a decoder-only model computes, said in features (norms, rotary embedding, residual layout, names of
// tensors), so that one forward serves every family. A family (family.h) translates config.json into this.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/backend/backend.h"

namespace swiftprune {

enum class NormKind { kRms, kLayer };

// Rotary embedding: angle of position p for pair i is p · inverse_frequency[i]; cos and sin are multiplied by
// `magnitude` (YaRN's and longrope's attention factor).
struct RopeConfig {
  std::vector<float> inverse_frequency;  // [rotary_size / 2], rounded up
  double magnitude = 1.0;
  // longrope: these frequencies serve sequences longer than long_from positions; empty otherwise.
  std::vector<float> long_inverse_frequency;
  std::int64_t long_from = 0;
};

// Names of a norm's tensors; an empty gain means a norm without parameters (LayerNorm only), an empty bias
// none.
struct NormTensors {
  std::string gain;
  std::string bias;
};

// The four distinct inputs of a block's linears: what calibration observes.
enum class LinearInput { kAttention, kAttentionOutput, kMlp, kMlpOutput };
constexpr int kNumLinearInputs = 4;
std::string_view name_of(LinearInput input);
// Is the linear that reads it an output projection, whose result joins the residual?
constexpr bool is_output(LinearInput input) {
  return input == LinearInput::kAttentionOutput || input == LinearInput::kMlpOutput;
}

struct LinearTensors {
  std::string name;  // module path: the weight is "<name>.weight", the bias "<name>.bias"
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;
  bool bias = false;
  LinearInput input = LinearInput::kAttention;
};

// How one linear holds query, key and value.
enum class QkvLayout {
  kSeparate,     // three linears
  kStacked,      // rows [all q | all k | all v] (Phi-3)
  kInterleaved,  // rows of head 0 [q k v], head 1 [q k v], ... (GPT-NeoX)
};

// Everything that differs between blocks.
struct BlockConfig {
  std::vector<LinearTensors> qkv;  // q, k, v; or the one fused linear
  LinearTensors attention_output;
  std::vector<LinearTensors> up;  // gate, up; or one fused [gate | up]; or up alone where nothing is gated
  LinearTensors down;
  NormTensors attention_norm;  // before attention
  NormTensors mlp_norm;        // before the MLP
  // On the output of attention and MLP, before the residual sum (Gemma).
  std::optional<NormTensors> post_attention_norm;
  std::optional<NormTensors> post_mlp_norm;
  std::optional<NormTensors> query_norm;  // per head, before the rotary embedding
  std::optional<NormTensors> key_norm;
  std::int64_t attention_window = 0;  // > 0: sliding window of that many keys
  int rope = 0;                       // index into ModelConfig::ropes; -1: none
};

struct ModelConfig {
  std::string family;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_size = 0;
  std::int64_t intermediate_size = 0;
  std::string intermediate_field = "intermediate_size";  // its name in config.json, for messages
  std::int64_t max_positions = 0;
  // What config.json can say of the family's models at other sizes (structure/).
  bool has_head_size_field = true;        // "head_dim"; else it is hidden_size / num_attention_heads
  bool heads_divide_hidden_size = false;  // transformers refuses other numbers of heads
  // The boolean that gives all linears of attention or MLP a bias; empty where the family knows none.
  std::string attention_bias_field, mlp_bias_field;
  bool needs_bos = false;  // the model was trained with BOS before everything and fails without it (Gemma)

  NormKind norm = NormKind::kRms;
  float norm_eps = 1e-5f;
  float norm_gain_offset = 0.0f;  // 1 where the file holds gain − 1 (Gemma)
  QkvLayout qkv_layout = QkvLayout::kSeparate;
  bool gated_mlp = true;
  Activation activation = Activation::kSilu;
  bool parallel_residual = false;  // x + attention(norm x) + mlp(norm' x)
  float attention_scale = 1.0f;
  float attention_softcap = 0.0f;
  float final_softcap = 0.0f;
  float embedding_scale = 1.0f;
  std::vector<RopeConfig> ropes;

  std::string embedding;                      // tensor [vocab, hidden]
  std::optional<std::string> position_table;  // learned positions, tensor [positions, hidden]
  std::int64_t position_offset = 0;           // row of position 0 in that table
  std::optional<NormTensors> final_norm;
  std::string head;  // tensor of the output projection; the embedding's name when tied
  std::optional<std::string> head_bias;
  std::vector<BlockConfig> blocks;

  // Blocks differ in width and number of heads (layer_sizes.h); the fields above then are the largest ones.
  bool has_layer_sizes = false;

  std::int64_t num_layers() const { return static_cast<std::int64_t>(blocks.size()); }
  std::int64_t heads_in(const BlockConfig& block) const { return block.attention_output.inputs / head_size; }
  // As many query heads share a key head in every block.
  std::int64_t kv_heads_in(const BlockConfig& block) const {
    return heads_in(block) / (num_heads / num_kv_heads);
  }
};

// All linears of a block in the order in which they are computed.
std::vector<LinearTensors> linears_of(const BlockConfig& block);
// The tensors [vocabulary, hidden] of the embedding and the output projection: one where they are tied.
std::vector<std::string> tables_of(const ModelConfig& model);

}  // namespace swiftprune
