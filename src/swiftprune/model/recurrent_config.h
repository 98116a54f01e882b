// What can stand in attention's place in a block: mixers that carry a state of fixed size from token to token.
// Their input projections are BlockConfig::qkv, their output projection is BlockConfig::attention_output.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace swiftprune {

// A filter over the last tokens for each channel: y_n = bias + Σ_j w_j·x_{n − taps + 1 + j}.
struct TimeConvolution {
  std::string weight;  // tensor [channels, 1, taps]
  std::string bias{};  // tensor [channels], or empty
  std::int64_t channels = 0;
  std::int64_t taps = 0;
};

// LFM2: one projection gives [b | c | v], each of `channels`; the mixer gives c·convolution(b·v).
struct ShortConvolution {
  TimeConvolution convolution;
};

// Gated DeltaNet (arXiv 2412.06464): [q | k | v] pass a convolution and SiLU; q and k are scaled to length 1, q then by
// 1/√key_size; S of each head decays by exp(−e^a_log·softplus(a + step_bias)) and learns v by the delta rule with rate
// sigmoid(b). The mixer gives norm(Sᵀq)·silu(z), head by head.
struct GatedDeltaNet {
  TimeConvolution convolution;  // over 2·key_heads·key_size + value_heads·value_size channels
  std::int64_t key_heads = 0;   // divides value_heads
  std::int64_t value_heads = 0;
  std::int64_t key_size = 0;
  std::int64_t value_size = 0;
  // Two linears, for each key head [q | k | its values | their z] and [its b | its a] (Qwen3-Next); else four: [q | k |
  // v], z, b and a.
  bool grouped = false;
  std::string decay;      // tensor a_log [value_heads]
  std::string step_bias;  // tensor [value_heads]
  std::string norm;       // gain [value_size] of an RMSNorm
};

// Mamba-2 (arXiv 2405.21060): one projection gives [z | x B C | dt]; x, B and C pass a convolution and SiLU. With
// dt = softplus(dt + step_bias), S of each head decays by exp(−e^a_log·dt) and gains B (dt·x)ᵀ. The mixer gives
// norm((Sᵀ C + skip·x)·silu(z)), the norm over the heads of each group; or norm(Sᵀ C + skip·x)·silu(z), or without a norm.
struct Mamba2 {
  TimeConvolution convolution;  // over heads·head_size + 2·groups·state_size channels
  std::int64_t heads = 0;
  std::int64_t head_size = 0;
  std::int64_t groups = 1;  // of heads that share B and C
  std::int64_t state_size = 0;
  float least_step = 0.0f;  // dt is at least this
  std::string decay;        // tensor a_log [heads]
  std::string step_bias;    // tensor [heads]
  std::string skip;         // tensor [heads]
  std::string norm;         // gain [heads·head_size], or empty
  bool norm_before_gate = false;
  std::array<float, 5> scales = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f};  // of z, x, B, C and dt (Falcon-H1)
};

using RecurrentMixer = std::variant<ShortConvolution, GatedDeltaNet, Mamba2>;

inline TimeConvolution& convolution_of(RecurrentMixer& mixer) {
  return std::visit([](auto& m) -> TimeConvolution& { return m.convolution; }, mixer);
}
inline const TimeConvolution& convolution_of(const RecurrentMixer& mixer) {
  return std::visit([](const auto& m) -> const TimeConvolution& { return m.convolution; }, mixer);
}

// A tensor that a mixer reads beside its projections, with the shape that its sizes give it.
struct MixerTensor {
  std::string* name;
  std::vector<std::int64_t> shape;
};
std::vector<MixerTensor> tensors_of(RecurrentMixer& mixer);

// Numbers that it remembers of a sequence.
std::int64_t state_numbers(const RecurrentMixer& mixer);

}  // namespace swiftprune
