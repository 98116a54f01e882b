// Attention of a block, in its kinds, and what stands in its place.
#include <algorithm>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/cuda/forward/attention_kernels.h"
#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/mixer_kernels.h"
#include "swiftprune/model/observed_linear.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;

static_assert(kMaxHeadSize == kMostHeadSize);

// Do queries, keys and values have to be put side by side before attention takes them?
bool gathers_heads(const BlockConfig& block) {
  return block.latent || block.gated_heads || block.keys_are_values || block.takes_keys();
}

// Is what attention gives what the output projection reads?
bool reads_heads(const ModelConfig& model, const BlockConfig& block) {
  return !block.beside && block.attention_output.inputs == model.heads_in(block) * model.head_size_in(block);
}

}  // namespace

void BlockForward::make_room_for_heads(DeviceMemory& memory) {
  std::int64_t gathered = 0, latent = 0, attended = 0, part = 0;
  for (const BlockConfig& block : model_.blocks) {
    const std::int64_t heads = model_.heads_in(block), d = model_.head_size_in(block);
    if (gathers_heads(block)) gathered = std::max(gathered, (heads + 2 * model_.kv_heads_in(block)) * d);
    if (block.latent) latent = std::max(latent, block.latent->rank);
    if (!reads_heads(model_, block)) attended = std::max(attended, heads * d);
    if (block.beside) part = std::max({part, block.attention_output.inputs, block.beside->output.inputs});
  }
  const auto matrix = [&](std::int64_t cols) {
    return DeviceMatrix(memory, compute_, rows_, cols, kActivations);
  };
  heads_ = matrix(gathered);
  latent_ = matrix(latent);
  attended_ = matrix(attended);
  part_ = matrix(part);
  if (part > 0) more_out_ = DeviceMatrix(memory, DType::kF32, rows_, model_.hidden_size, kActivations);
  if (!model_.attention_slopes.empty()) {
    slopes_ = upload(memory, std::span<const float>(model_.attention_slopes), kActivations, stream_);
    check(cudaStreamSynchronize(stream_));
  }
}

SequencesArgs BlockForward::sequences(std::int64_t rows) const {
  if (cache_ == nullptr) return {rows, seqlen_, nullptr, nullptr};
  return {rows, cached_.length, cached_.lanes, cached_.positions};
}

DeviceView BlockForward::attention(const BlockWeights& block, DeviceView x, DeviceView hidden) {
  const BlockConfig& config = block.config();
  const DeviceView mixed = view_of(mixed_.view().data, compute_, x.rows,
                                   observed_width(config, kAttentionOutput, model_.hidden_size));
  if (!config.has_mixer()) return mixed;
  Heads heads;
  if (config.latent) {
    heads = latent_heads(block, x);
  } else {
    const DeviceView projected = view_of(qkv_.data(), compute_, x.rows, block.group_rows(kAttention));
    linear(block, kAttention, x, projected);
    scale_products(config.qkv, projected);
    const MixerState* state = cache_ != nullptr ? &cache_->mixer : nullptr;
    if (config.recurrent) {
      mixer_->run(block, projected, sequences(x.rows), state, mixed);
      return mixed;
    }
    if (config.beside) {
      const std::int64_t own = config.beside->input.outputs, size = config.beside->output.inputs;
      const DeviceView of_mixer = projected.col_block(projected.cols - own, own);
      scale_products({config.beside->input}, of_mixer);
      mixer_->run(block, of_mixer, sequences(x.rows), state,
                  mixed.col_block(config.beside->output.first_input, size));
    }
    heads = projected_heads(config, projected, hidden);
  }
  const bool appended = prepare(block, heads, x.rows);
  if (config.carried_keys && !config.takes_keys()) {
    expect(!appended, "attention: keys that others take stand where they were made");
    move_keys(config, heads, hidden, false);
  }
  const std::int64_t num_heads = model_.heads_in(config), d = model_.head_size_in(config);
  const bool direct = reads_heads(model_, config);
  const DeviceView out = direct ? mixed : view_of(attended_.view().data, compute_, x.rows, num_heads * d);
  AttentionArgs args = attention_args(config, heads, x.rows);
  args.out = out.data;
  args.sinks = block.sinks();
  attend(args, appended);
  if (config.gated_heads) {
    GateHeadsArgs gate;
    gate.gate = qkv_.data() + d * size_of(compute_);
    gate.row_stride = block.group_rows(kAttention);
    gate.head_stride = 2 * d;
    gate.y = out.data;
    gate.dtype = compute_;
    gate.rows = x.rows;
    gate.num_heads = num_heads;
    gate.head_size = d;
    gate_heads(gate, stream_);
  }
  if (direct) return mixed;
  CopyHeadsArgs copy;
  copy.x = out.data;
  copy.y = mixed.data;
  copy.x_dtype = copy.y_dtype = compute_;
  copy.x_row_stride = out.stride;
  copy.x_head_stride = d;
  copy.y_row_stride = mixed.stride;
  copy.rows = x.rows;
  copy.num_heads = num_heads;
  copy.size = copy.y_head_stride = config.attention_output.inputs / num_heads;
  copy_heads(copy, stream_);
  return mixed;
}

BlockForward::Heads BlockForward::gathered_heads(const BlockConfig& block) const {
  const std::int64_t d = model_.head_size_in(block);
  const std::int64_t num_heads = model_.heads_in(block), num_kv_heads = model_.kv_heads_in(block);
  auto* q = static_cast<std::byte*>(heads_.view().data);
  const std::int64_t bytes = d * size_of(compute_);
  return {q, q + num_heads * bytes, q + (num_heads + num_kv_heads) * bytes,
          (num_heads + 2 * num_kv_heads) * d, d};
}

BlockForward::Heads BlockForward::projected_heads(const BlockConfig& block, DeviceView projected,
                                                  DeviceView hidden) {
  const std::int64_t d = model_.head_size_in(block);
  const std::int64_t num_heads = model_.heads_in(block), num_kv_heads = model_.kv_heads_in(block);
  auto* first = static_cast<std::byte*>(projected.data);
  const std::int64_t bytes = d * size_of(compute_);
  if (!gathers_heads(block)) {
    if (model_.qkv_layout == QkvLayout::kInterleaved)
      return {first, first + bytes, first + 2 * bytes, projected.stride, 3 * d};
    return {first, first + num_heads * bytes, first + (num_heads + num_kv_heads) * bytes, projected.stride,
            d};
  }
  const Heads heads = gathered_heads(block);
  const auto copy = [&](std::int64_t from, std::int64_t from_stride, std::byte* to, std::int64_t count) {
    CopyHeadsArgs args;
    args.x = first + from * size_of(compute_);
    args.x_row_stride = projected.stride;
    args.x_head_stride = from_stride;
    args.y = to;
    args.y_row_stride = heads.row_stride;
    args.y_head_stride = d;
    args.x_dtype = args.y_dtype = compute_;
    args.rows = projected.rows;
    args.num_heads = count;
    args.size = d;
    copy_heads(args, stream_);
  };
  const std::int64_t of_queries = block.gated_heads ? 2 * d : d;  // with their gates
  copy(0, of_queries, heads.q, num_heads);
  if (block.takes_keys()) {
    move_keys(block, heads, hidden, true);
    return heads;
  }
  copy(num_heads * of_queries, d, heads.k, num_kv_heads);
  const std::int64_t values = num_heads * of_queries + (block.keys_are_values ? 0 : num_kv_heads * d);
  copy(values, d, heads.v, num_kv_heads);
  return heads;
}

void BlockForward::move_keys(const BlockConfig& block, const Heads& heads, DeviceView hidden, bool taken) {
  const std::int64_t d = model_.head_size_in(block), size = model_.kv_size_in(block);
  CopyHeadsArgs args;
  args.rows = hidden.rows;
  args.num_heads = model_.kv_heads_in(block);
  args.size = d;
  for (const bool values : {false, true}) {
    const DeviceView carried = hidden.col_block(block.carried_keys->first + (values ? size : 0), size);
    std::byte* own = values ? heads.v : heads.k;
    args.x = taken ? carried.data : own;
    args.y = taken ? own : carried.data;
    args.x_dtype = taken ? DType::kF32 : compute_;
    args.y_dtype = taken ? compute_ : DType::kF32;
    args.x_row_stride = taken ? carried.stride : heads.row_stride;
    args.y_row_stride = taken ? heads.row_stride : carried.stride;
    args.x_head_stride = taken ? d : heads.head_stride;
    args.y_head_stride = taken ? heads.head_stride : d;
    copy_heads(args, stream_);
  }
}

// Rotated elements come first in each head, as RopeConfig has them; queries and keys alike, so products of the two stay
// what they are. Values are filled up with zeros.
BlockForward::Heads BlockForward::latent_heads(const BlockWeights& block, DeviceView x) {
  const LatentAttention& l = *block.config().latent;
  std::int64_t used = 0;  // bytes of qkv_
  std::size_t next = 0;
  const auto product = [&](DeviceView from) {
    const DeviceView y = view_of(qkv_.data() + used, compute_, from.rows, block.group_rows(kAttention, next));
    used += round_up(y.numel() * size_of(compute_), kProductAlignment);
    linear(block, kAttention, from, y, false, next++);
    return y;
  };
  const auto norm = [&](DeviceView y, BlockWeights::NormIndex index, std::int64_t cols) {
    NormArgs args;
    args.gain = block.norm(index).gain;
    args.eps = l.norm_eps;
    args.rows = y.rows;
    args.cols = cols;
    norm_rows(args, y.data, compute_, y.stride, stream_);
  };
  const auto copy = [&](DeviceView from, std::int64_t first, std::int64_t stride, std::byte* to,
                        std::int64_t row_stride, std::int64_t count, std::int64_t size, std::int64_t padded) {
    const std::int64_t d = model_.head_size;
    CopyHeadsArgs args;
    args.x = static_cast<std::byte*>(from.data) + first * size_of(compute_);
    args.x_row_stride = from.stride;
    args.x_head_stride = stride;
    args.y = to;
    args.y_row_stride = row_stride;
    args.y_head_stride = d;
    args.x_dtype = args.y_dtype = compute_;
    args.rows = from.rows;
    args.num_heads = count;
    args.size = size;
    args.padded = padded;
    copy_heads(args, stream_);
  };
  DeviceView q = product(x);
  if (l.query_rank > 0) {
    norm(q, BlockWeights::kLatentQueryNorm, q.cols);
    q = product(q);
  }
  const DeviceView compressed = product(x);
  norm(compressed, BlockWeights::kLatentNorm, l.rank);
  const DeviceView c = view_of(latent_.view().data, compute_, x.rows, l.rank);
  copy(compressed, 0, 0, static_cast<std::byte*>(c.data), l.rank, 1, l.rank, 0);
  const DeviceView kv = product(c);

  const Heads heads = gathered_heads(block.config());
  const std::int64_t num_heads = model_.num_heads, d = model_.head_size;
  const std::int64_t of_kv = l.plain_size + l.value_size, rotated = l.rotary_size * size_of(compute_);
  copy(q, l.plain_size, d, heads.q, heads.row_stride, num_heads, l.rotary_size, 0);
  copy(q, 0, d, heads.q + rotated, heads.row_stride, num_heads, l.plain_size, 0);
  copy(compressed, l.rank, 0, heads.k, heads.row_stride, num_heads, l.rotary_size, 0);
  copy(kv, 0, of_kv, heads.k + rotated, heads.row_stride, num_heads, l.plain_size, 0);
  copy(kv, l.plain_size, of_kv, heads.v, heads.row_stride, num_heads, l.value_size, d);
  return heads;
}

// Norms, clipping and rotation, in this order.
bool BlockForward::prepare(const BlockWeights& block, const Heads& heads, std::int64_t rows) {
  const BlockConfig& config = block.config();
  const std::int64_t d = model_.head_size_in(config);
  const std::int64_t num_heads = model_.heads_in(config), num_kv_heads = model_.kv_heads_in(config);
  const bool together = config.head_norms == HeadNorms::kTogether;
  const bool adjacent = heads.head_stride == d && heads.k == heads.q + num_heads * d * size_of(compute_);
  const SequencesArgs of = sequences(rows);
  const auto args_of = [&](std::byte* first, std::int64_t count) {
    HeadsArgs args;
    args.data = first;
    args.dtype = compute_;
    args.rows = rows;
    args.row_stride = heads.row_stride;
    args.head_stride = heads.head_stride;
    args.num_heads = count;
    args.head_size = d;
    args.layer = model_.norm == NormKind::kLayer;
    args.gain_offset = model_.norm_gain_offset;
    args.eps = model_.norm_eps;
    args.sequence_length = of.length;
    args.positions = of.positions;
    return args;
  };
  // norms, rotates: what is done now of what the block has.
  const auto heads_args = [&](std::byte* first, std::int64_t count, BlockWeights::NormIndex index, bool norms,
                              bool rotates) {
    const BlockWeights::Norm norm = block.norm(index);
    HeadsArgs args = args_of(first, count);
    if (norms && !together && norm.present) {
      args.normed = true;
      args.gain = norm.gain;
      args.bias = norm.bias;
      args.gain_stride = config.head_norms == HeadNorms::kEachOwn ? d : 0;
    }
    if (rotates && model_.query_scaling && index == BlockWeights::kQueryNorm) {
      args.scale_beta = model_.query_scaling->beta;
      args.scale_positions = model_.query_scaling->positions;
    }
    if (rotates && config.rope >= 0) {
      const auto number = static_cast<std::size_t>(config.rope);
      args.neighbours =
          config.latent ? config.latent->rotates_neighbours : model_.ropes[number].rotates_neighbours;
      args.cos = ropes_[number].cos.as<float>();
      args.sin = ropes_[number].sin.as<float>();
      args.pairs = ropes_[number].pairs;
    }
    return args;
  };
  const auto prepare = [&](std::byte* first, std::int64_t count, BlockWeights::NormIndex index, bool norms,
                           bool rotates) {
    prepare_heads(heads_args(first, count, index, norms, rotates), stream_);
  };
  const auto norm_together = [&](std::byte* first, std::int64_t count, BlockWeights::NormIndex index) {
    const BlockWeights::Norm norm = block.norm(index);
    if (!norm.present) return;
    NormArgs args = norm_args(model_, norm.gain, norm.bias, view_of(nullptr, DType::kF32, rows, count * d));
    norm_rows(args, first, compute_, heads.row_stride, stream_);
  };
  const bool normed =
      block.norm(BlockWeights::kQueryNorm).present || block.norm(BlockWeights::kKeyNorm).present;
  expect(!together || !normed || heads.head_stride == d,
         "norms over all heads: heads that follow each other");
  if (together) {
    norm_together(heads.q, num_heads, BlockWeights::kQueryNorm);
    norm_together(heads.k, num_kv_heads, BlockWeights::kKeyNorm);
  }
  if (config.norms_values) {
    HeadsArgs args = args_of(heads.v, num_kv_heads);
    args.normed = true;
    prepare_heads(args, stream_);
  }
  bool norms = true;
  if (model_.qkv_clip > 0.0f) {  // between the norms and the rotation
    if (normed && !together) {
      prepare(heads.q, num_heads, BlockWeights::kQueryNorm, true, false);
      prepare(heads.k, num_kv_heads, BlockWeights::kKeyNorm, true, false);
    }
    clip_rows(heads.q, compute_, rows, heads.row_stride, heads.row_stride, model_.qkv_clip, stream_);
    norms = false;
  }
  if (!normed && adjacent && !model_.query_scaling && !config.carried_keys) {
    const HeadsArgs both =
        heads_args(heads.q, num_heads + num_kv_heads, BlockWeights::kQueryNorm, false, true);
    if (cache_ != nullptr &&
        rotate_and_append(both, attention_args(config, heads, rows), cache_args(), stream_)) {
      return true;
    }
    prepare_heads(both, stream_);
    return false;
  }
  prepare(heads.q, num_heads, BlockWeights::kQueryNorm, norms, true);
  if (!config.takes_keys())  // those are done already
    prepare(heads.k, num_kv_heads, BlockWeights::kKeyNorm, norms, true);
  return false;
}

AttentionArgs BlockForward::attention_args(const BlockConfig& block, const Heads& heads,
                                           std::int64_t rows) const {
  AttentionArgs args;
  args.q = heads.q;
  args.k = heads.k;
  args.v = heads.v;
  args.dtype = compute_;
  args.rows = rows;
  args.sequence_length = sequences(rows).length;
  args.row_stride = heads.row_stride;
  args.head_stride = heads.head_stride;
  args.num_heads = model_.heads_in(block);
  args.num_kv_heads = model_.kv_heads_in(block);
  args.head_size = model_.head_size_in(block);
  args.scale = model_.attention_scale;
  args.softcap = model_.attention_softcap;
  args.window = block.attention_window;
  args.slopes = slopes_.as<float>();
  return args;
}

CacheArgs BlockForward::cache_args() const {
  CacheArgs args = cache_->pages;
  args.lanes = cached_.lanes;
  args.positions = cached_.positions;
  args.scratch = cached_.scratch;
  return args;
}

void BlockForward::attend(const AttentionArgs& args, bool appended) {
  if (cache_ == nullptr) return cuda::attention(args, stream_);
  const CacheArgs cache = cache_args();
  if (!appended) append_cache(args, cache, stream_);
  if (cached_.from_start) {
    cuda::attention(args, stream_);
  } else {
    cached_attention(args, cache, stream_);
  }
}

}  // namespace swiftprune::cuda
