// What a decoder-only model computes, said in features (norms, rotary embedding, residual layout, names of
// tensors), so that one forward serves every family. A family (family.h) translates config.json into this.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/model/recurrent_config.h"

namespace swiftprune {

enum class NormKind { kRms, kLayer };

// Rotary embedding: angle of position p for pair i is p · inverse_frequency[i]; cos and sin are multiplied by
// `magnitude` (YaRN's and longrope's attention factor).
struct RopeConfig {
  std::vector<float> inverse_frequency;  // [rotary_size / 2], rounded up
  double magnitude = 1.0;
  // Pairs are elements 2i and 2i + 1 of a head; else i and i + rotary_size/2.
  bool rotates_neighbours = false;
  // longrope: these frequencies serve sequences longer than long_from positions; empty otherwise.
  std::vector<float> long_inverse_frequency;
  std::int64_t long_from = 0;
};

// Names of a norm's tensors; an empty gain means a norm without parameters (LayerNorm only), an empty bias
// none.
struct NormTensors {
  std::string gain;
  std::string bias;
  // > 0: the gain is that many tensors, one behind the other; '*' in its name is their number.
  std::int64_t parts = 0;

  std::vector<std::string> names() const;
};

// What the norms of queries and keys act on.
enum class HeadNorms {
  kEach,     // head by head, with one gain for all
  kEachOwn,  // head by head, each with a gain of its own: gain [heads, head size]
  kTogether  // all heads at once: gain [heads·head size]
};

// Queries at position p are multiplied by 1 + beta·log(1 + floor(p / positions)) (Ministral 3, after Llama 4).
struct QueryScaling {
  float beta = 0.0f;
  std::int64_t positions = 1;
  float at(std::int64_t position) const;
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
  // Where its inputs begin in what is observed: two output projections may read a part of it each (ParallelMixer).
  std::int64_t first_input = 0;
  float scale = 1.0f;  // of the product; a linear that has one has no bias (Falcon-H1)
};

// How one linear holds query, key and value.
enum class QkvLayout {
  kSeparate,     // three linears
  kStacked,      // rows [all q | all k | all v] (Phi-3)
  kInterleaved,  // rows of head 0 [q k v], head 1 [q k v], ... (GPT-NeoX)
};

enum class RouterScore { kSoftmax, kSigmoid };
// What ranks a group of experts: its best score, or the sum of its best two.
enum class GroupScore { kBest, kBestTwo };

// Which experts a token x uses, and with which weights: scores s = softmax or sigmoid of W x + bias; the top_k
// highest of s + correction bias are chosen, weighed by s alone. (A softmax over the chosen logits is the
// softmax over all of them, renormalised.)
struct RouterConfig {
  std::string weight;           // tensor [E, hidden]
  std::string bias;             // tensor [E], or empty
  std::string correction_bias;  // tensor [E], or empty
  RouterScore score = RouterScore::kSoftmax;
  std::int64_t top_k = 1;
  // Groups of E / num_groups consecutive experts; only experts of the best top_groups can be chosen.
  std::int64_t num_groups = 1;
  std::int64_t top_groups = 1;
  GroupScore group_score = GroupScore::kBestTwo;
  bool renormalised = false;  // the chosen ones' scores are divided by their sum
  float scale = 1.0f;         // of the weights, after that
};

// gate·sigmoid(alpha·gate)·(up + 1), with gate at most `limit` and up within ±limit (gpt-oss).
struct ClampedSwiglu {
  float alpha = 1.702f;
  float limit = 7.0f;
};

// E MLPs of which each token uses top_k: y = Σ g_j·f_j(x). How the file holds them (one tensor an
// expert, one for all, MXFP4) is found when it is opened (expert_tensors.h).
struct ExpertsConfig {
  RouterConfig router;
  std::int64_t count = 0;  // E
  std::int64_t width = 0;  // inner channels of each
  std::string prefix;      // "model.layers.3.mlp.experts."
  std::array<std::string, 3> parts = {"gate_proj", "up_proj", "down_proj"};
  // Names of the fused tensors (gate over up, down); empty: gate_up_proj and down_proj behind the prefix.
  std::array<std::string, 2> fused;
  bool gated = true;  // else each is up and down alone (Nemotron-H)
  bool bias = false;
  bool fused_by_input = false;           // fused tensors are [E, inputs, outputs], gate and up in turn
  std::optional<ClampedSwiglu> clamped;  // instead of the model's activation
  std::string shared_gate;  // tensor [1, hidden] whose sigmoid weighs the shared expert, or empty
  std::string count_field, width_field;  // their names in config.json
};

// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434). Queries are q x, or q_b norm(q_a x); kv_a x = [c | r];
// kv_b norm(c) has a key part and a value for each head; r is the other part of every head's key. Only that part of
// a key, and the last elements of a query's head, are rotated. A head's size is plain_size + rotary_size.
// BlockConfig::qkv then holds q (or q_a and q_b), kv_a, kv_b.
struct LatentAttention {
  std::int64_t query_rank = 0;  // 0: queries of one linear
  std::int64_t rank = 0;        // of c
  std::int64_t plain_size = 0, rotary_size = 0, value_size = 0;
  NormTensors query_norm, norm;  // query_norm: where query_rank > 0
  float norm_eps = 1e-6f;
  bool rotates_neighbours = true;  // pairs are elements 2i and 2i + 1; else i and i + rotary_size/2
};

// Names of the parameters of an activation that learns two numbers (xIELU, arXiv 2411.13010), each a tensor of one:
// x > 0: softplus(alpha_p)·x² + beta·x; else (beta + softplus(alpha_n))·(e^min(x, eps) − 1 − x) + beta·x.
struct Xielu {
  std::string alpha_p, alpha_n, beta, eps;
};

// A mixer beside attention that reads the same normed input; what both give joins the residual (Falcon-H1). To
// observers the two output projections have one input: attention's heads, then what the mixer gives.
struct ParallelMixer {
  RecurrentMixer mixer;
  LinearTensors input;
  LinearTensors output;
};

// Keys and values of a block that later ones use in place of their own (Gemma 4): these columns of a row of hidden
// states, behind hidden_size, hold keys, then values, as attention takes them.
struct CarriedKeys {
  std::int64_t first = 0;
  bool taken = false;  // from there; else they are the block's own, and are left there
};

// What a token adds to each block (Gemma 4): e = (norm(P x/√hidden) + √size·T)/√2, x the token's scaled embedding, P and
// T the block's rows and columns of tables for all blocks.
struct LayerEmbeddings {
  std::string table;       // tensor [vocab, blocks·size]
  std::string projection;  // tensor [blocks·size, hidden]
  NormTensors norm;        // gain [size]
  std::int64_t size = 0;
};

// Where it joins, behind the MLP: x + norm(W_p (act(W_g x)·e)).
struct LayerInput {
  std::string gate;        // tensor W_g [size, hidden]
  std::string projection;  // tensor W_p [hidden, size]
  NormTensors norm;
};

// Everything that differs between blocks.
struct BlockConfig {
  // q, k, v (fewer where keys are values or carried); or the one fused linear; or what `recurrent` reads
  std::vector<LinearTensors> qkv;
  LinearTensors attention_output;  // without a name where the block is an MLP alone
  // gate, up; or one fused [gate | up]; or up alone where nothing is gated. Beside experts: of the shared
  // expert, which every token uses; empty (and down without a name) where there is none.
  std::vector<LinearTensors> up;
  LinearTensors down;
  std::optional<Xielu> xielu;  // instead of the model's activation
  std::optional<ExpertsConfig> experts;
  // Before attention and before the MLP; nothing: they read the hidden states as they are (OLMo 2). Both may name
  // the same tensors.
  std::optional<NormTensors> attention_norm;
  std::optional<NormTensors> mlp_norm;
  // On the output of attention and MLP, before the residual sum (Gemma).
  std::optional<NormTensors> post_attention_norm;
  std::optional<NormTensors> post_mlp_norm;
  std::optional<NormTensors> query_norm;  // before the rotary embedding
  std::optional<NormTensors> key_norm;
  HeadNorms head_norms = HeadNorms::kEach;
  std::optional<LatentAttention> latent;
  std::optional<RecurrentMixer> recurrent;   // in attention's place
  std::optional<ParallelMixer> beside;       // attention
  std::int64_t head_size = 0, kv_heads = 0;  // where they are not the model's (Gemma 4); else 0
  bool keys_are_values = false;              // before norm and rotation: no linear for values
  bool norms_values = false;                 // head by head, an RMSNorm without a gain
  std::optional<CarriedKeys> carried_keys;
  std::optional<LayerInput> layer_input;
  std::string output_scale;  // tensor [1] that multiplies what the block gives, or empty
  // The query linear gives [q | gate] for each head; sigmoid(gate) multiplies what the head gives (Qwen 3.5).
  bool gated_heads = false;
  std::string sinks;                  // tensor [heads] of attention sinks, or empty
  std::int64_t attention_window = 0;  // > 0: sliding window of that many keys
  int rope = 0;                       // index into ModelConfig::ropes; -1: none
  // Its entry of config.json's layer_types, where that is more than full or sliding attention; else empty.
  std::string layer_type;

  // Has it attention, or something in its place? An MLP? (Nemotron-H: one of the two in each.)
  bool has_mixer() const { return !attention_output.name.empty(); }
  bool has_mlp() const { return experts.has_value() || !up.empty(); }
  // Does a sequence leave a state in it, beside keys and values or in their place?
  bool has_state() const { return recurrent.has_value() || beside.has_value(); }
  const RecurrentMixer& mixer() const { return recurrent ? *recurrent : beside->mixer; }  // with has_state()
  bool takes_keys() const { return carried_keys && carried_keys->taken; }
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
  std::string layers_field = "num_hidden_layers";
  bool has_width_field = true;  // else the MLP's width follows from hidden_size
  // The boolean that makes config.json's width another number than the MLP's, or empty (LFM2).
  std::string adjusts_width_field;
  std::int64_t max_positions = 0;
  // What config.json can say of the family's models at other sizes (structure/).
  bool has_head_size_field = true;        // "head_dim"; else it is hidden_size / num_attention_heads
  bool heads_divide_hidden_size = false;  // transformers refuses other numbers of heads
  // The boolean that gives all linears of attention or MLP a bias; empty where the family knows none.
  std::string attention_bias_field, mlp_bias_field;
  // The list that says which layers rotate, for families whose layers differ in it ("no_rope_layers"), or empty.
  std::string rotated_layers_field;
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
  float qkv_clip = 0.0f;  // > 0: queries, keys and values are kept within ±qkv_clip (OLMoE)
  std::optional<QueryScaling> query_scaling;
  std::vector<float> attention_slopes;  // of ALiBi, one a head, or empty
  float residual_scale = 1.0f;          // of what attention and MLP add to the residual (Granite)
  float logit_scale = 1.0f;             // before the soft cap
  float final_softcap = 0.0f;
  float embedding_scale = 1.0f;
  std::vector<RopeConfig> ropes;

  std::string embedding;                      // tensor [vocab, hidden]
  std::optional<NormTensors> embedding_norm;  // on the embeddings (BLOOM)
  std::optional<std::string> position_table;  // learned positions, tensor [positions, hidden]
  std::int64_t position_offset = 0;           // row of position 0 in that table
  std::optional<NormTensors> final_norm;
  std::string head;                 // tensor of the output projection; the embedding's name when tied
  bool transposed_linears = false;  // the file holds weights of linears as [inputs, outputs] (GPT-2)
  std::string own_head;             // what the head's tensor is called where it is not tied
  std::optional<std::string> head_bias;
  std::vector<BlockConfig> blocks;
  // Where there are any, a token's id stands in the first column behind its hidden state.
  std::optional<LayerEmbeddings> layer_embeddings;
  // Columns behind the hidden state in its row: what later blocks need beside it.
  std::int64_t carried = 0;

  bool has_adapter = false;  // low-rank parts beside the linears (adapter.h)

  // Blocks differ in width and number of heads (layer_sizes.h); the fields above then are the largest ones.
  bool has_layer_sizes = false;

  bool has_experts() const {
    return std::any_of(blocks.begin(), blocks.end(),
                       [](const BlockConfig& b) { return b.experts.has_value(); });
  }
  bool has_recurrent_blocks() const {
    return std::any_of(blocks.begin(), blocks.end(), [](const BlockConfig& b) { return b.has_state(); });
  }
  bool has_head_sizes() const {
    return std::any_of(blocks.begin(), blocks.end(), [](const BlockConfig& b) { return b.head_size > 0; });
  }
  bool has_whole_blocks() const {
    return std::all_of(blocks.begin(), blocks.end(),
                       [](const BlockConfig& b) { return b.has_mixer() && b.has_mlp(); });
  }
  std::int64_t num_layers() const { return static_cast<std::int64_t>(blocks.size()); }
  std::int64_t row_size() const { return hidden_size + carried; }
  std::int64_t head_size_in(const BlockConfig& block) const {
    return block.head_size > 0 ? block.head_size : head_size;
  }
  // Of attention: 0 in a block that has something else in its place.
  std::int64_t heads_in(const BlockConfig& block) const {
    if (block.recurrent || !block.has_mixer()) return 0;
    return block.latent ? num_heads : block.attention_output.inputs / head_size_in(block);
  }
  // As many query heads share a key head in every block, but where it says otherwise.
  std::int64_t kv_heads_in(const BlockConfig& block) const {
    return block.kv_heads > 0 ? block.kv_heads : heads_in(block) / (num_heads / num_kv_heads);
  }
  // Width of the block's keys, and of its values.
  std::int64_t kv_size_in(const BlockConfig& block) const { return kv_heads_in(block) * head_size_in(block); }
  // Keys and values of a position in all blocks.
  std::int64_t cache_size() const {
    std::int64_t size = 0;
    for (const BlockConfig& block : blocks) size += 2 * kv_size_in(block);
    return size;
  }
  // Sizes of the query's and the key's norm.
  std::int64_t query_norm_size(const BlockConfig& block) const {
    return head_size_in(block) * (block.head_norms == HeadNorms::kEach ? 1 : heads_in(block));
  }
  std::int64_t key_norm_size(const BlockConfig& block) const {
    return head_size_in(block) * (block.head_norms == HeadNorms::kEach ? 1 : kv_heads_in(block));
  }
};

// What the product of the output projection that reads `output` is multiplied with before it joins the residual.
inline float output_factor(const ModelConfig& model, const BlockConfig& block, LinearInput output) {
  const bool of_mixer = output == LinearInput::kAttentionOutput;
  return model.residual_scale * (of_mixer ? block.attention_output : block.down).scale;
}

// The hidden states in rows [N, row_size], without what they carry.
inline MatrixView hidden_of(const ModelConfig& model, MatrixView rows) {
  return model.carried == 0 ? rows : rows.col_block(0, model.hidden_size);
}
inline ConstMatrixView hidden_of(const ModelConfig& model, ConstMatrixView rows) {
  return model.carried == 0 ? rows : rows.col_block(0, model.hidden_size);
}

// All linears of a block that every token passes, in the order in which they are computed: not the experts'.
std::vector<LinearTensors> linears_of(const BlockConfig& block);
// The tensors [vocabulary, hidden] of the embedding and the output projection: one where they are tied.
std::vector<std::string> tables_of(const ModelConfig& model);

}  // namespace swiftprune
