// The recurrent mixers of blocks on the device (model/recurrent_mixer.h).
#pragma once

#include "swiftprune/cuda/forward/block_weights.h"
#include "swiftprune/cuda/forward/mixer_kernels.h"

namespace swiftprune::cuda {

// What one block's mixer remembers of the sequence in each lane (RecurrentState): [lanes, taps − 1, channels] and
// [lanes, heads, values, keys], F32.
struct MixerState {
  DeviceMatrix past, state;
};
MixerState make_mixer_state(DeviceMemory& memory, const RecurrentMixer& mixer, std::int64_t lanes);

class DeviceMixer {
 public:
  // rows: most rows a call. The model has blocks with mixers.
  DeviceMixer(DeviceMemory& memory, const ModelConfig& model, std::int64_t rows, DType compute,
              cudaStream_t stream);

  // projected [N, O]: what the mixer's projections give, side by side, in the compute dtype -> out [N, inputs of the
  // output projection]; both may be parts of wider rows. state: where `sequences` has lanes.
  void run(const BlockWeights& block, DeviceView projected, const SequencesArgs& sequences,
           const MixerState* state, DeviceView out);

 private:
  struct Call {
    BlockWeights::Mixer weights;
    DeviceView x, out;
    SequencesArgs sequences;
    const MixerState* state = nullptr;
  };
  void run(const ShortConvolution& m, const Call& call);
  void run(const GatedDeltaNet& m, const Call& call);
  void run(const Mamba2& m, const Call& call);
  // Columns of x from `first` on through the convolution, into mixed_.
  void convolve(const TimeConvolution& convolution, const Call& call, const std::byte* first,
                const void* factor, bool silu);
  void recur(RecurrenceArgs args, const Call& call);
  const std::byte* column(DeviceView x, std::int64_t index) const {
    return x.row(0) + index * size_of(compute_);
  }

  float eps_;
  DType compute_;
  cudaStream_t stream_;
  DeviceBuffer mixed_;           // [N, channels] F32
  DeviceBuffer decays_, steps_;  // [N, heads] F32
  DeviceBuffer y_;               // [N, heads·values] F32
  DeviceBuffer ungrouped_;       // rows of a grouped gated DeltaNet in one order
};

}  // namespace swiftprune::cuda
