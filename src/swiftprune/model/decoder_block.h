// One decoder block: its weights as float, and its forward pass over whole sequences or, with a cache, over
// new tokens.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/model/block_linear.h"
#include "swiftprune/model/experts.h"
#include "swiftprune/model/layer_inputs.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/model/recurrent_mixer.h"
#include "swiftprune/sparse/autotune.h"
#include "swiftprune/tensor/growing_matrix.h"

namespace swiftprune {

// What one block keeps of a sequence: keys and values of the positions seen so far, or the state of what it has in
// attention's place. A call whose first position is 0 begins anew.
struct KvCache {
  GrowingMatrix keys;    // [capacity, Hkv·D]
  GrowingMatrix values;  // [capacity, Hkv·D]
  RecurrentState recurrent = {};
};

// Called with each distinct input x [N, I] of the block's linears, in the order of LinearInput.
using InputObserver = std::function<void(LinearInput input, ConstMatrixView x)>;

// Consecutive rows that hold one run of tokens: from position 0, or after the run of another segment.
struct Segment {
  std::int64_t first_row = 0;
  std::int64_t length = 0;
  std::int64_t prefix = -1;  // the segment (one without a prefix) that these tokens continue; -1: none
};

// Consecutive rows of one text, behind the positions that its cache holds.
struct CachedRun {
  std::int64_t first_row = 0;
  std::int64_t length = 0;
  std::int64_t position = 0;  // of the first row; what the cache has beyond it is overwritten
  KvCache* cache = nullptr;   // null: none, and nothing comes before
};

struct BlockForwardOptions {
  std::int64_t sequence_length = 0;  // hidden holds whole sequences of this many rows each
  // Instead of whole sequences the rows' runs, in order, without caches or with them.
  std::span<const Segment> segments = {};
  std::span<const CachedRun> runs = {};
  const InputObserver* observer = nullptr;
  bool observe_only = false;  // stop after the last observation: hidden is left undefined
};

class DecoderBlock {
 public:
  // Loads and checks the block's tensors. Throws Error{kBadInput} naming the tensor.
  DecoderBlock(const Checkpoint& checkpoint, const ModelConfig& model, std::int64_t layer,
               WeightUse use = WeightUse::kFloat, const Adapter* adapter = nullptr);

  const BlockConfig& config() const { return config_; }
  // The linears in the order of linears_of(). After a change of weights call pack() before forward().
  std::vector<BlockLinear>& linears() { return linears_; }
  const std::vector<BlockLinear>& linears() const { return linears_; }
  void pack(const Backend& backend, ComputeType compute);
  void pack(const Backend& backend, ComputeType compute, LinearInput input);  // the linears that read it
  // The block's experts; null where it has none.
  const Experts* experts() const { return experts_ ? &*experts_ : nullptr; }
  // Packed linears become dense where that is faster for this many tokens a call.
  void tune(Autotuner& tuner, std::int64_t num_tokens, ComputeType compute);

  // hidden [N, row_size]: becomes the block's output. rope: tables of ModelConfig::ropes.
  void forward(const Backend& backend, const std::vector<RopeTable>& ropes, MatrixView hidden,
               const BlockForwardOptions& options) const;

  // The steps of forward(), for what must stop between them (calibration). hidden [N, row_size].
  //   x = input_of(kAttention, hidden);  mixed = attention(x, hidden);
  //   add_output(kAttentionOutput, project(mixed), hidden)
  //   x = input_of(kMlp, hidden);  inner = mlp(x);  add_output(kMlpOutput, project(inner), hidden)
  // What a block has not gives no columns, and projects them to zeros.
  // With a parallel residual the MLP's input comes from the hidden states before attention was added. In a block
  // with experts mlp() returns its input, and project() does all that comes behind it: router, experts and shared
  // expert.
  Matrix input_of(const Backend& backend, LinearInput input, ConstMatrixView hidden) const;
  // [N, H·D], before the output projection; with a mixer beside it, what that gives stands behind. hidden: for keys and
  // values that blocks leave to others.
  Matrix attention(const Backend& backend, const std::vector<RopeTable>& ropes, ConstMatrixView x,
                   MatrixView hidden, const BlockForwardOptions& options) const;
  Matrix mlp(const Backend& backend, ConstMatrixView x) const;  // [N, I], before the down projection
  // which: kAttentionOutput or kMlpOutput. The projection alone, then its norm (where there is one) and the
  // sum.
  Matrix project(const Backend& backend, LinearInput which, ConstMatrixView x) const;
  // Of a block with experts: what its shared expert adds, zeros where there is none. x [N, hidden] -> [N, hidden]
  Matrix shared_output(const Backend& backend, ConstMatrixView x) const;
  // The input [N, I] of the shared expert's down projection, where there is one.
  Matrix shared_inner(const Backend& backend, ConstMatrixView x) const { return dense_mlp(backend, x); }
  // With the MLP's output the block ends: what tokens add to it (LayerInput) and its output's scale come in here.
  void add_output(const Backend& backend, LinearInput which, MatrixView y, MatrixView rows) const;
  float output_factor(LinearInput which) const { return swiftprune::output_factor(model_, config_, which); }
  bool norms_output(LinearInput which) const;
  // The MLP's activation, in place.
  void activate(const Backend& backend, MatrixView x) const;

  // Every tensor of the block but its experts' (ExpertTensors::names()), for writing and releasing.
  static std::vector<std::string> tensor_names(const BlockConfig& block);

 private:
  struct Norm {
    std::vector<float> gain;
    std::vector<float> bias;
    bool present = false;
  };
  void load_norm(const Checkpoint& checkpoint, const NormTensors& tensors, std::int64_t size,
                 Norm& norm) const;
  void apply_norm(const Backend& backend, const Norm& norm, ConstMatrixView x, MatrixView y) const;
  void apply_head_norm(const Backend& backend, const Norm& norm, MatrixView x) const;
  // What a rotary embedding needs in front of Backend::rope(): pairs of neighbours become pairs of halves, queries
  // are scaled by their position. x: heads of consecutive positions.
  void pair_halves(MatrixView x) const;
  void scale_queries(MatrixView q, std::int64_t first_position) const;
  void rotate(const Backend& backend, const std::vector<RopeTable>& ropes, MatrixView q, MatrixView k,
              std::int64_t first_position) const;
  Matrix linear(const Backend& backend, std::size_t index, ConstMatrixView x) const;
  // Index of attention's output projection, or of what stands in its place; of the first linear of the MLP.
  std::size_t output_index() const { return config_.qkv.size() + (config_.beside ? 1 : 0); }
  std::size_t first_up() const {
    return config_.has_mixer() ? output_index() + (config_.beside ? 2 : 1) : config_.qkv.size();
  }
  // The MLP that every token passes: of a block without experts, or the shared expert.
  Matrix dense_mlp(const Backend& backend, ConstMatrixView x) const;
  // The shared expert's output from its inner values.
  Matrix project_shared(const Backend& backend, ConstMatrixView x, ConstMatrixView inner) const;
  struct Qkv;
  Qkv project_qkv(const Backend& backend, ConstMatrixView x, ConstMatrixView hidden) const;
  // Heads as the other kinds of attention have them: the rotated elements first, values filled up with zeros.
  Qkv project_latent(const Backend& backend, ConstMatrixView x) const;
  // One run: rotates, caches and attends.
  void attend(const Backend& backend, const std::vector<RopeTable>& ropes, const Qkv& qkv,
              const CachedRun& run, MatrixView out) const;
  // The runs of the options, or whole sequences as such.
  static std::vector<CachedRun> runs_of(const BlockForwardOptions& options, std::int64_t rows);
  // Runs as long as the first and no longer than `longest` side by side, others one after another, each with all threads:
  // the answers of a batch, and a chunk of a prompt that is read beside them.
  static void for_runs(std::span<const CachedRun> runs, std::int64_t longest,
                       const std::function<void(const CachedRun&)>& body);
  void attend_segments(const Backend& backend, const std::vector<RopeTable>& ropes, const Qkv& qkv,
                       std::span<const Segment> segments, MatrixView out) const;
  Matrix attend_all(const Backend& backend, const std::vector<RopeTable>& ropes, ConstMatrixView x,
                    MatrixView hidden, const BlockForwardOptions& options) const;
  // What a recurrent mixer gives, in attention's place or beside it, for whole sequences or for segments.
  Matrix mix(const Backend& backend, ConstMatrixView x, const BlockForwardOptions& options) const;
  void mix_segments(const Backend& backend, std::span<const MatrixView> projected,
                    std::span<const Segment> segments, MatrixView out) const;
  Matrix values_of(Matrix heads) const;  // [N, H·D] -> the part of each head that is a value
  AttentionParams attention_params(std::int64_t first_position) const;
  const Norm& output_norm(LinearInput which) const;

  const ModelConfig& model_;
  const BlockConfig& config_;
  ComputeType compute_ = ComputeType::kF32;
  std::vector<BlockLinear> linears_;
  std::optional<Experts> experts_;
  std::optional<RecurrentBlock> recurrent_;
  std::optional<LayerInputs> layer_inputs_;
  float output_scale_ = 1.0f;
  std::vector<float> shared_gate_;  // [hidden] or empty
  std::vector<float> sinks_;        // [heads] or empty
  std::array<float, 4> xielu_{};    // alpha_p and alpha_n behind their softplus, beta, eps
  Norm attention_norm_, mlp_norm_, post_attention_norm_, post_mlp_norm_, query_norm_, key_norm_;
  Norm latent_query_norm_, latent_norm_, value_norm_;
};

}  // namespace swiftprune
