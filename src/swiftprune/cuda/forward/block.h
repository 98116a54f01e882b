// One decoder block on the device: its tensors in one buffer, and its forward over whole sequences, driven by
// the features of ModelConfig like model/decoder_block.h. Linears that read one input are one product.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/cuda/kernels.h"
#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/sparse/packed_weight.h"
#include "swiftprune/model/model.h"

namespace swiftprune::cuda {

// The weights of the linears lie one after the other in the order of linears_of(), as in the checkpoint; then
// come the norms (F32) and biases (in the dtype of the product's output), prepared on the host.
struct BlockLayout {
  struct Weight {
    std::string tensor;
    DType dtype = DType::kF32;
    LinearInput input = LinearInput::kAttention;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes() const { return static_cast<std::uint64_t>(rows * cols * size_of(dtype)); }
  };
  std::vector<Weight> weights;
  std::uint64_t extras_offset = 0;
  std::uint64_t extras_bytes = 0;
  std::uint64_t bytes = 0;  // of everything
};

class BlockWeights {
 public:
  // Room for any block of the model.
  BlockWeights(DeviceMemory& memory, const Model& model, DType compute);

  // From now on every block has a bias behind this output projection: zeros where the checkpoint has none.
  void reserve_bias(LinearInput output) { reserved_bias_[static_cast<std::size_t>(output)] = true; }
  // [O] F32 becomes an output projection's bias.
  void set_bias(LinearInput output, std::span<const float> bias, cudaStream_t stream);
  // Makes the block pass its input on: both output projections and their biases become zeros.
  void silence(cudaStream_t stream);

  // Lays out block `layer` and returns its norms and biases for the device.
  std::vector<std::byte> set_layer(std::int64_t layer);
  const BlockLayout& layout() const { return layout_; }
  std::byte* data() const { return buffer_.data(); }
  std::uint64_t bytes() const { return buffer_.bytes() + converted_.bytes(); }  // on the device
  // Number of the linear that is the output projection which reads `output`.
  std::size_t output_projection(LinearInput output) const;
  // The linear's weights [O, I] in the checkpoint's dtype.
  DeviceView weight(std::size_t linear) const;
  // All weights that read `input` [ΣO, I] in the compute dtype. After a change of weights: refresh().
  DeviceView group(LinearInput input) const;
  const void* bias(LinearInput input) const;
  void refresh(LinearInput input, cudaStream_t stream);
  void refresh(cudaStream_t stream);
  // Packed weights of the layer from the checkpoint, by groups; the layer must be set, and its layout then
  // holds the groups that are not packed. `compute` must be their dtype. Throws Error{kBadInput} for a group
  // that is packed in part beside F32 weights.
  void load_packed(DeviceMemory& memory, cudaStream_t stream);
  // x [N, I] -> y [N, ΣO] (+)= x Wᵀ + bias with the weights that read `input`; scratch as in DevicePacked.
  void linear(Products& products, LinearInput input, DeviceView x, DeviceView y, bool accumulate,
              DevicePacked::Scratch scratch, cudaStream_t stream) const;
  // y F32 = x Wᵀ, without bias
  void product(Products& products, LinearInput input, DeviceView x, DeviceView y,
               DevicePacked::Scratch scratch, cudaStream_t stream) const;
  // The packed groups of the layer, for a tuner.
  template <class Body>
  void for_each_packed(const Body& body) {
    for (auto& weight : packed_) {
      if (weight) body(*weight);
    }
  }
  std::int64_t group_rows(LinearInput input) const;
  std::int64_t linear_bytes() const;  // of the linears' weights, as a product of a few tokens reads them
  // The same tensors as `other`, by a copy on the device.
  void copy_from(const BlockWeights& other, cudaStream_t stream);

  struct Norm {
    const float* gain = nullptr;
    const float* bias = nullptr;
    bool present = false;
  };
  enum NormIndex {
    kAttentionNorm,
    kMlpNorm,
    kPostAttentionNorm,
    kPostMlpNorm,
    kQueryNorm,
    kKeyNorm,
    kNumNorms
  };
  Norm norm(NormIndex index) const;
  const BlockConfig& config() const { return model_.config().blocks[static_cast<std::size_t>(layer_)]; }

  static std::uint64_t max_weight_bytes(const Model& model);

 private:
  struct NormOffsets {
    bool present = false, has_gain = false, has_bias = false;
    std::uint64_t gain = 0, bias = 0;
  };
  BlockLayout layout_of(std::int64_t layer) const;
  bool is_converted(LinearInput input) const;

  const Model& model_;
  DType compute_;
  std::int64_t layer_ = 0;
  BlockLayout layout_;
  std::array<NormOffsets, kNumNorms> norms_{};
  std::array<std::int64_t, kNumLinearInputs> bias_offsets_{};  // -1: none
  std::array<bool, kNumLinearInputs> reserved_bias_{};
  DeviceBuffer buffer_;
  std::array<std::optional<DevicePacked>, kNumLinearInputs> packed_;
  DeviceBuffer converted_;  // weights in the compute dtype, where the checkpoint's is another
};

// Keys and values of one block for the positions seen so far, [lanes·capacity, Hkv·D] in the compute dtype.
struct DeviceCache {
  DeviceMatrix keys, values;
};

// Rows that continue cached sequences, `length` each. lanes, positions, capacity, scratch: as in CacheArgs.
struct CachedRows {
  std::int64_t length = 0;
  const std::int32_t* lanes = nullptr;
  const std::int32_t* positions = nullptr;
  std::int64_t capacity = 0;
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
  // hidden [N, hidden] F32 becomes the block's output.
  void run(const BlockWeights& block, DeviceView hidden, const DeviceObserver* observer = nullptr);

  // New tokens of cached sequences. Their positions stay below seqlen, which else means nothing here.
  void run_cached(const BlockWeights& block, DeviceView hidden, DeviceCache& cache, const CachedRows& rows);

  // The steps of run(), as in DecoderBlock. The results stand until the same step is called again.
  DeviceView input_of(const BlockWeights& block, LinearInput input, DeviceView hidden);
  DeviceView attention(const BlockWeights& block, DeviceView x);
  DeviceView mlp(const BlockWeights& block, DeviceView x);
  DeviceView up(const BlockWeights& block, DeviceView x);  // of mlp(): before the activation, gate first
  DeviceView project(const BlockWeights& block, LinearInput which, DeviceView x);  // F32, before its norm
  void add_projected(const BlockWeights& block, LinearInput which, DeviceView y, DeviceView hidden);
  void project_and_add(const BlockWeights& block, LinearInput which, DeviceView x, DeviceView hidden);
  static bool norms_output(const BlockWeights& block, LinearInput which);
  // What the linears that read it make of x [N, I], without biases: y [N, ΣO] F32.
  void product(const BlockWeights& block, LinearInput input, DeviceView x, DeviceView y) {
    block.product(products_, input, x, y, {expanded_.data(), expanded_.bytes()}, stream_);
  }
  std::int64_t rows() const { return rows_; }
  DType compute() const { return compute_; }

 private:
  const ModelConfig& model_;
  Products& products_;
  std::int64_t rows_, seqlen_, longest_;
  DType compute_;
  cudaStream_t stream_;
  void linear(const BlockWeights& block, LinearInput input, DeviceView x, DeviceView y,
              bool accumulate = false) {
    block.linear(products_, input, x, y, accumulate, {expanded_.data(), expanded_.bytes()}, stream_);
  }

  DeviceMatrix x_, qkv_, mixed_, up_, inner_, out_;
  DeviceBuffer expanded_;         // packed models: the weights of one group
  DeviceCache* cache_ = nullptr;  // of the block that runs
  CachedRows cached_;             // with cache_
  struct Rope {
    DeviceBuffer cos, sin;
    std::int64_t pairs = 0;
  };
  std::vector<Rope> ropes_;
};

ActivationKind kind_of(Activation activation);
// The model's norm over x [N, hidden] F32.
NormArgs norm_args(const ModelConfig& model, const float* gain, const float* bias, DeviceView x);

// The linears of a block by the input that they read, in the order of LinearInput.
std::array<std::vector<LinearTensors>, kNumLinearInputs> linears_by_input(const BlockConfig& block);

}  // namespace swiftprune::cuda
