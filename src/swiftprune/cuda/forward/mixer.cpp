#include "swiftprune/cuda/forward/mixer.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/cuda/forward/mixer_kernels.h"

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "the mixers of one pass";

// Numbers of heads, and of keys and values of each; none of a short convolution.
struct StateSizes {
  std::int64_t heads = 0, keys = 0, values = 0;
};
StateSizes state_sizes(const RecurrentMixer& mixer) {
  if (const auto* m = std::get_if<GatedDeltaNet>(&mixer)) return {m->value_heads, m->key_size, m->value_size};
  if (const auto* m = std::get_if<Mamba2>(&mixer)) return {m->heads, m->state_size, m->head_size};
  return {};
}

std::int64_t delta_columns(const GatedDeltaNet& m) {
  return m.convolution.channels + m.value_heads * (m.value_size + 2);
}

}  // namespace

MixerState make_mixer_state(DeviceMemory& memory, const RecurrentMixer& mixer, std::int64_t lanes) {
  const TimeConvolution& convolution = convolution_of(mixer);
  const StateSizes sizes = state_sizes(mixer);
  constexpr std::string_view kState = "what mixers remember";
  return {DeviceMatrix(memory, DType::kF32, lanes * (convolution.taps - 1), convolution.channels, kState),
          DeviceMatrix(memory, DType::kF32, lanes * sizes.heads * sizes.values, sizes.keys, kState)};
}

DeviceMixer::DeviceMixer(DeviceMemory& memory, const ModelConfig& model, std::int64_t rows, DType compute,
                         cudaStream_t stream)
    : eps_(model.norm_eps), compute_(compute), stream_(stream) {
  std::int64_t channels = 0, heads = 0, values = 0, ungrouped = 0;
  for (const BlockConfig& block : model.blocks) {
    if (!block.has_state()) continue;
    const StateSizes sizes = state_sizes(block.mixer());
    if (sizes.keys > kMostStateKeys) {
      bad_usage("model of the family {}: found states of {} rows, expected at most {} {}; {}", model.family,
                sizes.keys, kMostStateKeys, capabilities().where, capabilities().instead);
    }
    channels = std::max(channels, convolution_of(block.mixer()).channels);
    heads = std::max(heads, sizes.heads);
    values = std::max(values, sizes.heads * sizes.values);
    if (const auto* delta = std::get_if<GatedDeltaNet>(&block.mixer()); delta != nullptr && delta->grouped)
      ungrouped = std::max(ungrouped, delta_columns(*delta));
  }
  const auto room = [&](std::int64_t cols, std::int64_t each) {
    return DeviceBuffer(memory, static_cast<std::uint64_t>(rows * cols * each), kWhat);
  };
  mixed_ = room(channels, sizeof(float));
  decays_ = room(heads, sizeof(float));
  steps_ = room(heads, sizeof(float));
  y_ = room(values, sizeof(float));
  ungrouped_ = room(ungrouped, size_of(compute));
}

void DeviceMixer::run(const BlockWeights& block, DeviceView projected, const SequencesArgs& sequences,
                      const MixerState* state, DeviceView out) {
  const Call call{block.mixer(), projected, out, sequences, state};
  std::visit([&](const auto& mixer) { run(mixer, call); }, block.config().mixer());
}

void DeviceMixer::convolve(const TimeConvolution& convolution, const Call& call, const std::byte* first,
                           const void* factor, bool silu) {
  ConvolutionArgs args;
  args.sequences = call.sequences;
  args.x = first;
  args.factor = factor;
  args.dtype = compute_;
  args.row_stride = call.x.stride;
  args.channels = convolution.channels;
  args.taps_count = convolution.taps;
  args.taps = call.weights.taps;
  args.bias = call.weights.bias;
  args.silu = silu;
  if (call.state != nullptr) args.past = static_cast<float*>(call.state->past.view().data);
  args.y = mixed_.as<float>();
  causal_convolution(args, stream_);
}

void DeviceMixer::recur(RecurrenceArgs args, const Call& call) {
  args.sequences = call.sequences;
  args.decays = decays_.as<float>();
  args.steps = steps_.as<float>();
  if (call.state != nullptr) args.state = static_cast<float*>(call.state->state.view().data);
  args.y = y_.as<float>();
  recurrence(args, stream_);
}

// One projection gives [b | c | v].
void DeviceMixer::run(const ShortConvolution& m, const Call& call) {
  const std::int64_t size = m.convolution.channels;
  convolve(m.convolution, call, column(call.x, 0), column(call.x, 2 * size), false);
  MixerOutputArgs args;
  args.y = mixed_.as<float>();
  args.rows = call.x.rows;
  args.group_size = size;
  args.gate = column(call.x, size);
  args.gate_stride = call.x.stride;
  args.silu = false;
  args.out = call.out.data;
  args.out_stride = call.out.stride;
  args.dtype = compute_;
  mixer_output(args, stream_);
}

// The projections give [q | k | v | z | b | a], or, grouped, the same by key head.
void DeviceMixer::run(const GatedDeltaNet& m, const Call& of) {
  Call call = of;
  if (m.grouped) {
    expect(of.x.stride == of.x.cols && of.x.cols == delta_columns(m), "gated DeltaNet: its columns alone");
    call.x = view_of(ungrouped_.data(), compute_, of.x.rows, of.x.cols);
    ungroup(
        {of.x.data, call.x.data, compute_, of.x.rows, m.key_heads, m.value_heads, m.key_size, m.value_size},
        stream_);
  }
  const std::int64_t channels = m.convolution.channels, keys = m.key_heads * m.key_size;
  const std::int64_t values = m.value_heads * m.value_size;
  convolve(m.convolution, call, column(call.x, 0), nullptr, true);
  ScaleHeadsArgs heads;
  heads.x = mixed_.as<float>();
  heads.rows = call.x.rows;
  heads.row_stride = channels;
  heads.num_heads = m.key_heads;
  heads.head_size = m.key_size;
  heads.eps = kMixerLengthEps;
  heads.length = 1.0f / std::sqrt(static_cast<float>(m.key_size));
  scale_heads(heads, stream_);
  heads.x += keys;
  heads.length = 1.0f;
  scale_heads(heads, stream_);
  MixerGatesArgs gates;
  gates.rate = column(call.x, channels + values);
  gates.time = column(call.x, channels + values + m.value_heads);
  gates.dtype = compute_;
  gates.row_stride = call.x.stride;
  gates.rows = call.x.rows;
  gates.num_heads = m.value_heads;
  gates.decay = call.weights.decay;
  gates.step_bias = call.weights.step_bias;
  gates.decays = decays_.as<float>();
  gates.steps = steps_.as<float>();
  mixer_gates(gates, stream_);
  RecurrenceArgs args;
  args.q = mixed_.as<float>();
  args.k = args.q + keys;
  args.v = args.q + 2 * keys;
  args.row_stride = channels;
  args.num_heads = m.value_heads;
  args.num_key_heads = m.key_heads;
  args.key_size = m.key_size;
  args.value_size = m.value_size;
  args.delta_rule = true;
  recur(args, call);
  MixerOutputArgs out;
  out.y = y_.as<float>();
  out.rows = call.x.rows;
  out.num_groups = m.value_heads;
  out.group_size = m.value_size;
  out.gate = column(call.x, channels);
  out.gate_stride = call.x.stride;
  out.norm = call.weights.norm;
  out.norm_first = true;
  out.eps = eps_;
  out.out = call.out.data;
  out.out_stride = call.out.stride;
  out.dtype = compute_;
  mixer_output(out, stream_);
}

// One projection gives [z | x B C | dt].
void DeviceMixer::run(const Mamba2& m, const Call& call) {
  const std::int64_t size = m.heads * m.head_size, shared = m.groups * m.state_size;
  const std::int64_t channels = m.convolution.channels;
  convolve(m.convolution, call, column(call.x, size), nullptr, true);
  MixerGatesArgs gates;
  gates.time = column(call.x, size + channels);
  gates.dtype = compute_;
  gates.row_stride = call.x.stride;
  gates.rows = call.x.rows;
  gates.num_heads = m.heads;
  gates.decay = call.weights.decay;
  gates.step_bias = call.weights.step_bias;
  gates.time_scale = m.scales[4];
  gates.least_time = m.least_step;
  gates.decays = decays_.as<float>();
  gates.steps = steps_.as<float>();
  mixer_gates(gates, stream_);
  RecurrenceArgs args;
  args.v = mixed_.as<float>();
  args.k = args.v + size;
  args.q = args.k + shared;
  args.row_stride = channels;
  args.num_heads = m.heads;
  args.num_key_heads = m.groups;
  args.key_size = m.state_size;
  args.value_size = m.head_size;
  recur(args, call);
  MixerOutputArgs out;
  out.y = y_.as<float>();
  out.rows = call.x.rows;
  out.num_groups = m.groups;
  out.group_size = size / m.groups;
  out.skip = call.weights.skip;
  out.v = args.v;
  out.v_stride = channels;
  out.head_size = m.head_size;
  out.gate = column(call.x, 0);
  out.gate_stride = call.x.stride;
  out.gate_scale = m.scales[0];
  out.norm = call.weights.norm;
  out.norm_stride = out.group_size;
  out.norm_first = m.norm_before_gate;
  out.eps = eps_;
  out.out = call.out.data;
  out.out_stride = call.out.stride;
  out.dtype = compute_;
  mixer_output(out, stream_);
}

}  // namespace swiftprune::cuda
