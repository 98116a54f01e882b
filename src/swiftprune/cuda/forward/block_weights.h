// One decoder block's tensors in one buffer on the device. Linears that read one input are one product, but where they
// read different parts of it (ParallelMixer) or one what another gives (LatentAttention): these are a product each.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/sparse/expert_stack.h"
#include "swiftprune/cuda/sparse/packed_weight.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/recurrent_mixer.h"
#include "swiftprune/model/xielu.h"

namespace swiftprune::cuda {

// The linears of a block by the input that they read, in the order of LinearInput.
std::array<std::vector<LinearTensors>, kNumLinearInputs> linears_by_input(const BlockConfig& block);

// The same as products: of each input one of all its linears, or one each.
using LinearsOfProducts = std::vector<std::vector<LinearTensors>>;
std::array<LinearsOfProducts, kNumLinearInputs> products_by_input(const BlockConfig& block);
inline constexpr std::size_t kMostProducts = 4;  // of one input

// Most columns that an input has which linears of the model read.
std::int64_t widest_input(const ModelConfig& model);

// The weights of the linears lie one after the other in the order of linears_of(), as in the checkpoint; then
// come the experts' weights in the compute dtype, gate (where there is one) over up for each, then down for each, where
// these are not packed; then
// the norms (F32), what mixers read beside their projections (F32), what routes (F32) and biases (in the dtype of the product's output), prepared on the host.
struct BlockLayout {
  struct Weight {
    std::string tensor;
    DType dtype = DType::kF32;
    LinearInput input = LinearInput::kAttention;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    std::uint64_t offset = 0;
    std::size_t product = 0;  // number of the product among its input's
    std::uint64_t bytes() const { return static_cast<std::uint64_t>(rows * cols * size_of(dtype)); }
  };
  std::vector<Weight> weights;
  std::uint64_t expert_up_offset = 0, expert_down_offset = 0;
  bool packed_experts = false;
  std::uint64_t extras_offset = 0;
  std::uint64_t extras_bytes = 0;
  std::uint64_t bytes = 0;  // of everything
};

class BlockWeights {
 public:
  // Room for any block of the model, or for block `only` alone.
  BlockWeights(DeviceMemory& memory, const Model& model, DType compute,
               std::optional<std::int64_t> only = std::nullopt);

  // From now on every block has a bias behind this output projection: zeros where the checkpoint has none.
  void reserve_bias(LinearInput output) { reserved_bias_[static_cast<std::size_t>(output)] = true; }
  // [O] F32 becomes an output projection's bias.
  void set_bias(LinearInput output, std::span<const float> bias, cudaStream_t stream);
  // Makes the block pass its input on: both output projections and their biases become zeros.
  void silence(cudaStream_t stream);

  // Lays out block `layer` and returns its norms and biases for the device.
  std::vector<std::byte> set_layer(std::int64_t layer);
  std::int64_t layer() const { return layer_; }
  const BlockLayout& layout() const { return layout_; }
  std::byte* data() const { return buffer_.data(); }
  std::uint64_t bytes() const { return buffer_.bytes() + converted_.bytes(); }  // on the device
  // Number of the linear that is the output projection which reads `output`.
  std::size_t output_projection(LinearInput output) const;
  // The linear's weights [O, I] in the checkpoint's dtype.
  DeviceView weight(std::size_t linear) const;
  // All weights of a product of `input` [ΣO, I] in the compute dtype. After a change of weights: refresh().
  DeviceView group(LinearInput input, std::size_t product = 0) const;
  const void* bias(LinearInput input, std::size_t product = 0) const;
  void refresh(LinearInput input, cudaStream_t stream);
  void refresh(cudaStream_t stream);
  // Packed weights of the layer from the checkpoint, by groups; the layer must be set, and its layout then
  // holds the groups that are not packed; its experts, too, where they are. `compute` must be their dtype. Throws
  // Error{kBadInput} for a group that is packed in part beside F32 weights.
  void load_packed(DeviceMemory& memory, cudaStream_t stream);
  // x [N, I] -> y [N, ΣO] (+)= x Wᵀ + bias with the weights of a product of `input`; scratch as in DevicePacked. at_rest:
  // nothing on the stream writes the weights any more.
  void linear(Products& products, LinearInput input, DeviceView x, DeviceView y, bool accumulate,
              DevicePacked::Scratch scratch, cudaStream_t stream, std::size_t product, bool at_rest) const;
  // y F32 = x Wᵀ, without bias
  void product(Products& products, LinearInput input, DeviceView x, DeviceView y,
               DevicePacked::Scratch scratch, cudaStream_t stream, std::size_t product = 0) const;
  // The packed groups of the layer, for a tuner.
  template <class Body>
  void for_each_packed(const Body& body) {
    for (auto& of_input : packed_) {
      for (auto& weight : of_input) {
        if (weight) body(*weight);
      }
    }
  }
  std::int64_t group_rows(LinearInput input, std::size_t product = 0) const;
  std::int64_t linear_bytes() const;  // of the linears' weights, as a product of a few tokens reads them
  // Of what experts' linears read of them for so many tokens, at most.
  std::int64_t expert_bytes(std::int64_t tokens) const;

  // -- Where the block has experts.
  const ExpertTensors& expert_tensors() const { return *experts_; }
  bool has_packed_experts() const { return layout_.packed_experts; }
  // x [n, hidden] -> y [n, gate over up], x [n, I] -> y [n, hidden] F32, of one expert, with its bias. scratch: as in
  // ExpertStack, of any expert; unused where they are not packed.
  void expert_up_linear(Products& products, std::int64_t expert, DeviceView x, DeviceView y,
                        DeviceView scratch, cudaStream_t stream) const;
  void expert_down_linear(Products& products, std::int64_t expert, DeviceView x, DeviceView y,
                          DeviceView scratch, cudaStream_t stream) const;
  StackedWeight packed_expert_up() const { return up_stack_->weight(); }
  StackedWeight packed_expert_down() const { return down_stack_->weight(); }
  // -- Where they are not.
  // Where a linear of an expert goes in the buffer.
  std::uint64_t expert_offset(std::int64_t expert, ExpertPart part) const;
  DType compute() const { return compute_; }
  DeviceView expert_up(std::int64_t expert) const;    // [2I, hidden], gate over up; or up [I, hidden] alone
  DeviceView expert_down(std::int64_t expert) const;  // [hidden, I]
  // -- Either way.
  const void* expert_up_bias(std::int64_t expert) const;     // of its rows, in the compute dtype, or null
  const float* expert_down_bias(std::int64_t expert) const;  // [hidden] or null
  DeviceView router() const;                                 // [E, hidden] F32
  const float* router_bias() const { return extra(router_bias_offset_); }          // [E] or null
  const float* correction_bias() const { return extra(correction_bias_offset_); }  // [E] or null
  const float* shared_gate() const { return extra(shared_gate_offset_); }          // [hidden] or null

  const float* sinks() const { return extra(sinks_offset_); }  // [heads] of attention sinks, or null

  // -- Where it has a recurrent mixer (MixerWeights): null where the mixer has none. Scales of Mamba2::scales that the
  // convolution's channels have are in its taps.
  struct Mixer {
    const float *taps = nullptr, *bias = nullptr, *decay = nullptr, *step_bias = nullptr, *skip = nullptr,
                *norm = nullptr;
  };
  Mixer mixer() const;

  float output_scale() const { return output_scale_; }                 // of what the block gives
  const std::optional<XieluNumbers>& xielu() const { return xielu_; }  // instead of the model's activation

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
    kLatentQueryNorm,
    kLatentNorm,
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
  class Extras;
  void add_experts(const ExpertsConfig& experts, Extras& extras);
  void add_mixer(const RecurrentMixer& mixer, Extras& extras);
  void load_packed_experts(DeviceMemory& memory, cudaStream_t stream);
  BlockLayout layout_of(std::int64_t layer) const;
  const float* extra(std::int64_t offset) const {
    return offset < 0 ? nullptr
                      : reinterpret_cast<const float*>(buffer_.data() + layout_.extras_offset + offset);
  }
  bool is_converted(LinearInput input, std::size_t product) const;
  void refresh(LinearInput input, std::size_t product, cudaStream_t stream);

  const Model& model_;
  DType compute_;
  std::int64_t layer_ = 0;
  BlockLayout layout_;
  std::array<NormOffsets, kNumNorms> norms_{};
  using Offsets = std::array<std::int64_t, kMostProducts>;
  std::array<Offsets, kNumLinearInputs> bias_offsets_{};  // -1: none
  std::array<bool, kNumLinearInputs> reserved_bias_{};
  std::optional<ExpertTensors> experts_;  // of the layer in hand
  std::int64_t router_offset_ = -1, router_bias_offset_ = -1, correction_bias_offset_ = -1,
               shared_gate_offset_ = -1, up_bias_offset_ = -1, down_bias_offset_ = -1, sinks_offset_ = -1;
  std::array<std::int64_t, 6> mixer_offsets_{};  // in the order of Mixer
  float output_scale_ = 1.0f;
  std::optional<XieluNumbers> xielu_;
  DeviceBuffer buffer_;
  std::array<std::array<std::optional<DevicePacked>, kMostProducts>, kNumLinearInputs> packed_;
  std::optional<ExpertStack> up_stack_, down_stack_;
  DeviceBuffer converted_;  // weights in the compute dtype, where the checkpoint's is another
};

// Values of the host in the compute dtype. Waits for the device.
DeviceMatrix uploaded(DeviceMemory& memory, const Matrix& values, DType compute, std::string_view what,
                      cudaStream_t stream);

// Whether any weight of a product is packed: then it is not part of the layout.
bool is_packed(const Checkpoint& checkpoint, const std::vector<LinearTensors>& group);
// Whether any linear of the block's experts is: then none of them is.
bool has_packed_experts(const Model& model, const BlockConfig& block);
// Throws Error{kUsage} naming the tensor where packed experts of a block are no ExpertStack for products in `compute`.
void check_packed_experts(const Model& model, DType compute);

}  // namespace swiftprune::cuda
