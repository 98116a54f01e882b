// One decoder block on the device: its forward over whole sequences, driven by the features of ModelConfig like
// model/decoder_block.h.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "swiftprune/cuda/forward/attention_kernels.h"
#include "swiftprune/cuda/forward/block_adapter.h"
#include "swiftprune/cuda/forward/block_weights.h"
#include "swiftprune/cuda/forward/experts.h"
#include "swiftprune/cuda/forward/layer_inputs.h"
#include "swiftprune/cuda/forward/mixer.h"

namespace swiftprune::cuda {

// Keys and values of one block for the positions seen so far, in the compute dtype, and what its mixer remembers.
struct DeviceCache {
  CacheArgs pages;  // without what CachedRows has
  MixerState mixer = {};
};

// Rows that continue cached sequences, `length` each. lanes, positions, scratch: as in CacheArgs.
struct CachedRows {
  std::int64_t length = 0;
  const std::int32_t* lanes = nullptr;
  const std::int32_t* positions = nullptr;
  void* scratch = nullptr;
  bool from_start = false;  // every position is 0: the sequences are whole
};

// Called with each distinct input x [rows, I] of the block's linears, in the order of LinearInput.
using DeviceObserver = std::function<void(LinearInput input, DeviceView x)>;

class BlockForward {
 public:
  // rows: most rows a call; run() takes whole sequences of seqlen rows, or of as many as
  // set_sequence_length() says, which are no more.
  BlockForward(DeviceMemory& memory, Products& products, const Model& model, std::int64_t rows,
               std::int64_t seqlen, DType compute, cudaStream_t stream);

  void set_sequence_length(std::int64_t length) {
    expect(length > 0 && length <= longest_, "set_sequence_length: at most the longest");
    seqlen_ = length;
  }
  // hidden [N, row_size] F32, contiguous, becomes the block's output, or, where all is over once the last input is
  // observed, something between.
  void run(const BlockWeights& block, DeviceView hidden, const DeviceObserver* observer = nullptr,
           bool observes_only = false);

  // New tokens of cached sequences. Their positions stay below seqlen, which else means nothing here.
  void run_cached(const BlockWeights& block, DeviceView hidden, DeviceCache& cache, const CachedRows& rows);

  // What blocks have beside BlockWeights is loaded for all of them now, and stays: for steps that are recorded.
  void keep_all() {
    if (layer_inputs_) layer_inputs_->load_all();
    if (adapter_) adapter_->load_all();
  }
  // Of that, what a decode step reads.
  std::int64_t bytes_beside() const { return adapter_ ? adapter_->num_bytes() : 0; }

  // The steps of run(), as in DecoderBlock. The results stand until the same step is called again. hidden: rows of
  // row_size columns.
  DeviceView input_of(const BlockWeights& block, LinearInput input, DeviceView hidden);
  DeviceView attention(const BlockWeights& block, DeviceView x, DeviceView hidden);
  DeviceView mlp(const BlockWeights& block, DeviceView x);
  DeviceView up(const BlockWeights& block, DeviceView x);  // of mlp(): before the activation, gate first
  DeviceView project(const BlockWeights& block, LinearInput which, DeviceView x);  // F32, before its norm
  // Of a block with experts, from their input x: the shared expert's output, times a factor, joins `hidden`, where there
  // is one.
  void add_shared(const BlockWeights& block, DeviceView x, DeviceView hidden, const DeviceObserver* observer,
                  float factor = 1.0f);
  DeviceExperts& experts() { return *experts_; }
  void add_projected(const BlockWeights& block, LinearInput which, DeviceView y, DeviceView hidden);
  void project_and_add(const BlockWeights& block, LinearInput which, DeviceView x, DeviceView hidden);
  static bool norms_output(const BlockWeights& block, LinearInput which);
  // What a product's linears make of x [N, I], without biases and scales: y [N, ΣO] F32.
  void product(const BlockWeights& block, LinearInput input, DeviceView x, DeviceView y,
               std::size_t product) {
    block.product(products_, input, x, y, {expanded_.data(), expanded_.bytes()}, stream_, product);
    if (adapter_) adapter_->add(block, input, product, x, y);
  }
  std::int64_t rows() const { return rows_; }
  DType compute() const { return compute_; }

 private:
  static constexpr std::string_view kActivations = "the activations of one pass";
  static constexpr std::int64_t kProductAlignment = 256;  // bytes: what cuBLASLt likes best

  const ModelConfig& model_;
  Products& products_;
  std::int64_t rows_, seqlen_, longest_;
  DType compute_;
  cudaStream_t stream_;
  void linear(const BlockWeights& block, LinearInput input, DeviceView x, DeviceView y,
              bool accumulate = false, std::size_t product = 0) {
    const bool at_rest = cache_ != nullptr;  // who generates has loaded the weights before
    block.linear(products_, input, x, y, accumulate, {expanded_.data(), expanded_.bytes()}, stream_, product,
                 at_rest);
    if (adapter_) adapter_->add(block, input, product, x, y);
  }
  // Queries, keys and values in the compute dtype: first elements of the first row.
  struct Heads {
    std::byte *q = nullptr, *k = nullptr, *v = nullptr;
    std::int64_t row_stride = 0, head_stride = 0;  // elements
  };
  void make_room_for_heads(DeviceMemory& memory);
  Heads projected_heads(const BlockConfig& block, DeviceView projected, DeviceView hidden);
  Heads latent_heads(const BlockWeights& block, DeviceView x);
  Heads gathered_heads(const BlockConfig& block) const;  // places in heads_
  // Keys and values as attention takes them: to their columns in rows of hidden states, or from there.
  void move_keys(const BlockConfig& block, const Heads& heads, DeviceView hidden, bool taken);
  // Norms, clips and rotates them; true: with a cache, keys and values are in it now.
  bool prepare(const BlockWeights& block, const Heads& heads, std::int64_t rows);
  void attend(const AttentionArgs& args, bool appended);
  AttentionArgs attention_args(const BlockConfig& block, const Heads& heads, std::int64_t rows) const;
  CacheArgs cache_args() const;
  SequencesArgs sequences(std::int64_t rows) const;
  // Columns of y that linears with a scale gave.
  void scale_products(const std::vector<LinearTensors>& linears, DeviceView y);
  DeviceView part_of(DeviceView x, const LinearTensors& linear);
  // Behind its MLP: what tokens add to the block joins, and what it gives is scaled.
  void end_block(const BlockWeights& block, DeviceView hidden);

  DeviceMatrix x_, mixed_, up_, inner_, out_;
  DeviceBuffer qkv_;    // of all products of the input, each aligned
  DeviceMatrix heads_;  // [rows, (H + 2·Hkv)·D] where they do not lie in one product as attention takes them
  DeviceMatrix latent_;           // [rows, rank] what keys and values of latent attention are made of
  DeviceMatrix attended_;         // [rows, H·D] where that is not what the output projection reads
  DeviceMatrix part_, more_out_;  // of one of two output projections
  DeviceBuffer slopes_;           // [heads] of ALiBi
  std::optional<DeviceMixer> mixer_;
  std::optional<DeviceExperts> experts_;
  std::optional<DeviceLayerInputs> layer_inputs_;
  std::optional<BlockAdapter> adapter_;
  DeviceBuffer expanded_;         // packed models: the weights of one group
  DeviceCache* cache_ = nullptr;  // of the block that runs
  CachedRows cached_;             // with cache_
  struct Rope {
    DeviceBuffer cos, sin;
    std::int64_t pairs = 0;
  };
  std::vector<Rope> ropes_;
};

// The hidden states in rows [N, row_size], without what they carry.
inline DeviceView hidden_of(const ModelConfig& model, DeviceView rows) {
  return model.carried == 0 ? rows : rows.col_block(0, model.hidden_size);
}
inline StridedRows strided(DeviceView x) { return {static_cast<const float*>(x.data), x.stride}; }
// x, rows of any stride, to y, contiguous, in its dtype.
void to_compute(DeviceView x, DeviceView y, cudaStream_t stream);
ActivationKind kind_of(Activation activation);
// The model's norm over x [N, hidden] F32.
NormArgs norm_args(const ModelConfig& model, const float* gain, const float* bias, DeviceView x);

}  // namespace swiftprune::cuda
