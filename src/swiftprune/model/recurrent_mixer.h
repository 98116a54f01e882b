// The mixers of recurrent_config.h: their tensors in memory, the state that a sequence keeps, and what they give.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/recurrent_config.h"

namespace swiftprune {

// What a mixer remembers of the tokens so far; empty before the first.
struct RecurrentState {
  Matrix past;   // [taps − 1, channels]: what the convolution read last
  Matrix state;  // [heads·keys, values]; empty for a short convolution

  RecurrentState clone() const { return {past.clone(), state.clone()}; }
};

// What a mixer reads beside its projections, as float; empty where it has none. Throws Error{kBadInput} naming the
// tensor.
struct MixerWeights {
  Matrix taps;  // [taps, channels]
  std::vector<float> bias, decay, step_bias, skip, norm;
};
MixerWeights load_mixer(const Checkpoint& checkpoint, const RecurrentMixer& mixer);

inline constexpr float kMixerLengthEps = 1e-6f;  // of q and k scaled to length 1 (fla's l2norm)

class RecurrentBlock {
 public:
  // Tensors as the model has them; eps: of the mixer's norm. Throws Error{kBadInput} naming the tensor.
  RecurrentBlock(const Checkpoint& checkpoint, const RecurrentMixer& mixer, float eps);

  // Rows of one sequence: what the block's input projections give, in their order, each [N, O] -> [N, inputs of the
  // output projection]. `state` is that before the first row, and becomes that behind the last.
  Matrix mix(const Backend& backend, std::span<const MatrixView> projected, RecurrentState& state) const;

 private:
  Matrix mix(const Backend& backend, const ShortConvolution& m, std::span<const MatrixView> projected,
             RecurrentState& state) const;
  Matrix mix(const Backend& backend, const GatedDeltaNet& m, std::span<const MatrixView> projected,
             RecurrentState& state) const;
  Matrix mix(const Backend& backend, const Mamba2& m, std::span<const MatrixView> projected,
             RecurrentState& state) const;
  // x [N, C] through the convolution, which remembers its last rows in `state`.
  Matrix convolved(const Backend& backend, ConstMatrixView x, RecurrentState& state) const;

  const RecurrentMixer& mixer_;
  float eps_;
  MixerWeights weights_;
};

}  // namespace swiftprune
