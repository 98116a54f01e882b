// One decoder block on the device: its forward over whole sequences, driven by the features of ModelConfig like
// model/decoder_block.h.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "swiftprune/cuda/forward/block_weights.h"
#include "swiftprune/cuda/forward/experts.h"

namespace swiftprune::cuda {

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
  // hidden [N, hidden] F32 becomes the block's output, or, where all is over once the last input is observed, something
  // between.
  void run(const BlockWeights& block, DeviceView hidden, const DeviceObserver* observer = nullptr,
           bool observes_only = false);

  // New tokens of cached sequences. Their positions stay below seqlen, which else means nothing here.
  void run_cached(const BlockWeights& block, DeviceView hidden, DeviceCache& cache, const CachedRows& rows);

  // The steps of run(), as in DecoderBlock. The results stand until the same step is called again.
  DeviceView input_of(const BlockWeights& block, LinearInput input, DeviceView hidden);
  DeviceView attention(const BlockWeights& block, DeviceView x);
  DeviceView mlp(const BlockWeights& block, DeviceView x);
  DeviceView up(const BlockWeights& block, DeviceView x);  // of mlp(): before the activation, gate first
  DeviceView project(const BlockWeights& block, LinearInput which, DeviceView x);  // F32, before its norm
  // Of a block with experts, from their input x: the shared expert's output joins `hidden`, where there is one.
  void add_shared(const BlockWeights& block, DeviceView x, DeviceView hidden, const DeviceObserver* observer);
  DeviceExperts& experts() { return *experts_; }
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
    block.linear(products_, input, x, y, accumulate, {expanded_.data(), expanded_.bytes()}, stream_,
                 cache_ != nullptr);  // who generates has loaded the weights before
  }

  DeviceMatrix x_, qkv_, mixed_, up_, inner_, out_;
  std::optional<DeviceExperts> experts_;
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

}  // namespace swiftprune::cuda
