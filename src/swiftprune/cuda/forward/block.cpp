#include "swiftprune/cuda/forward/block.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/cuda/capabilities.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;

std::size_t at(LinearInput input) { return static_cast<std::size_t>(input); }

// What experts add joins the residual as it is, behind the attention.
void check_experts_sum(const ModelConfig& model) {
  for (const BlockConfig& block : model.blocks) {
    if (!block.experts ||
        (!model.parallel_residual && !block.post_mlp_norm && model.residual_scale == 1.0f)) {
      continue;
    }
    bad_usage(
        "model of the family {}: found experts {}, expected them behind the attention, as they are, {}; {}",
        model.family,
        model.parallel_residual ? "beside the attention" : "with a norm or a factor behind them",
        capabilities().where, capabilities().instead);
  }
}

}  // namespace

ActivationKind kind_of(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return ActivationKind::kSilu;
    case Activation::kGelu:
      return ActivationKind::kGelu;
    case Activation::kGeluTanh:
      return ActivationKind::kGeluTanh;
    case Activation::kRelu:
      return ActivationKind::kRelu;
    case Activation::kReluSquared:
      return ActivationKind::kReluSquared;
    case Activation::kQuickGelu:
      return ActivationKind::kQuickGelu;
    case Activation::kClippedGelu:
      return ActivationKind::kClippedGelu;
    case Activation::kMish:
      return ActivationKind::kMish;
    case Activation::kSigmoid:
      break;
  }
  expect(false, "activate: an activation of the capabilities");
  return ActivationKind::kSilu;
}

NormArgs norm_args(const ModelConfig& model, const float* gain, const float* bias, DeviceView x) {
  NormArgs args;
  args.x = static_cast<const float*>(x.data);
  args.gain = gain;
  args.bias = bias;
  args.layer = model.norm == NormKind::kLayer;
  args.gain_offset = model.norm_gain_offset;
  args.eps = model.norm_eps;
  args.rows = x.rows;
  args.cols = x.cols;
  return args;
}

BlockForward::BlockForward(DeviceMemory& memory, Products& products, const Model& model, std::int64_t rows,
                           std::int64_t seqlen, DType compute, cudaStream_t stream)
    : model_(model.config()),
      products_(products),
      rows_(rows),
      seqlen_(seqlen),
      longest_(seqlen),
      compute_(compute),
      stream_(stream) {
  check_model(model_, capabilities());
  expect(rows > 0, "BlockForward: rows");
  check_experts_sum(model_);
  std::int64_t qkv = 0;
  std::int64_t up = 0;
  std::int64_t inner = 0;
  std::int64_t expanded = 0;
  for (const BlockConfig& block : model_.blocks) {
    const auto groups = linears_by_input(block);
    const auto outputs = [&](LinearInput input) {
      std::int64_t sum = 0;
      for (const LinearTensors& linear : groups[at(input)]) sum += linear.outputs;
      return sum;
    };
    qkv = std::max(qkv, outputs(kAttention));
    up = std::max(up, outputs(kMlp));
    inner = std::max(inner, block.down.inputs);
    for (std::size_t i = 0; i < groups.size(); ++i) {
      if (!is_packed(model.checkpoint(), groups[i])) continue;
      expanded = std::max(expanded, outputs(static_cast<LinearInput>(i)) * groups[i].front().inputs);
    }
  }
  constexpr std::string_view kWhat = "the activations of one pass";
  x_ = DeviceMatrix(memory, compute, rows, model_.hidden_size, kWhat);
  qkv_ = DeviceMatrix(memory, compute, rows, qkv, kWhat);
  mixed_ = DeviceMatrix(memory, compute, rows, model_.num_heads * model_.head_size, kWhat);
  up_ = DeviceMatrix(memory, compute, rows, up, kWhat);
  inner_ = DeviceMatrix(memory, compute, rows, inner, kWhat);
  out_ = DeviceMatrix(memory, DType::kF32, rows, model_.hidden_size, kWhat);
  if (expanded > 0 && rows > kMaxDecodeTokens) {
    expanded_ =
        DeviceBuffer(memory, static_cast<std::uint64_t>(expanded * size_of(compute)), "expanded weights");
  }
  if (model_.has_experts()) experts_.emplace(memory, products, model_, rows, compute, stream);
  for (const RopeTable& table : model.rope_tables(seqlen)) {
    Rope rope;
    rope.pairs = table.cos.cols();
    rope.cos = upload(memory, table.cos.values(), "rotary tables", stream);
    rope.sin = upload(memory, table.sin.values(), "rotary tables", stream);
    check(cudaStreamSynchronize(stream));  // the tables live on the host until here
    ropes_.push_back(std::move(rope));
  }
}

DeviceView BlockForward::input_of(const BlockWeights& block, LinearInput input, DeviceView hidden) {
  const DeviceView x = x_.view().row_block(0, hidden.rows);
  const auto index = input == kAttention ? BlockWeights::kAttentionNorm : BlockWeights::kMlpNorm;
  const BlockWeights::Norm norm = block.norm(index);
  if (!norm.present) {
    convert(hidden.data, DType::kF32, x.data, compute_, hidden.numel(), stream_);
    return x;
  }
  cuda::norm(norm_args(model_, norm.gain, norm.bias, hidden), x.data, compute_, stream_);
  return x;
}

DeviceView BlockForward::attention(const BlockWeights& block, DeviceView x) {
  const DeviceView qkv = view_of(qkv_.view().data, compute_, x.rows, block.group_rows(kAttention));
  linear(block, kAttention, x, qkv);
  const std::int64_t d = model_.head_size;
  const bool interleaved = model_.qkv_layout == QkvLayout::kInterleaved;
  const std::int64_t num_heads = model_.heads_in(block.config());
  const std::int64_t num_kv_heads = model_.kv_heads_in(block.config());
  const std::int64_t head_stride = interleaved ? 3 * d : d;
  const std::int64_t k_start = interleaved ? d : num_heads * d;
  const std::int64_t v_start = interleaved ? 2 * d : (num_heads + num_kv_heads) * d;
  const auto start = [&](std::int64_t element) {
    return static_cast<std::byte*>(qkv.data) + element * size_of(compute_);
  };
  const BlockConfig& config = block.config();
  const bool together = config.head_norms == HeadNorms::kTogether;
  // norms, rotates: what is done now of what the block has.
  const auto heads_args = [&](std::int64_t element, std::int64_t heads, BlockWeights::NormIndex index,
                              bool norms, bool rotates) {
    const BlockWeights::Norm norm = block.norm(index);
    HeadsArgs args;
    args.data = start(element);
    args.dtype = compute_;
    args.rows = x.rows;
    args.row_stride = qkv.stride;
    args.head_stride = head_stride;
    args.num_heads = heads;
    args.head_size = d;
    if (norms && !together) {
      args.gain = norm.gain;
      args.bias = norm.bias;
      args.gain_stride = config.head_norms == HeadNorms::kEachOwn ? d : 0;
    }
    args.layer = model_.norm == NormKind::kLayer;
    args.gain_offset = model_.norm_gain_offset;
    args.eps = model_.norm_eps;
    args.sequence_length = cache_ == nullptr ? seqlen_ : cached_.length;
    args.positions = cache_ == nullptr ? nullptr : cached_.positions;
    if (rotates && model_.query_scaling && index == BlockWeights::kQueryNorm) {
      args.scale_beta = model_.query_scaling->beta;
      args.scale_positions = model_.query_scaling->positions;
    }
    if (rotates && config.rope >= 0) {
      const Rope& rope = ropes_[static_cast<std::size_t>(config.rope)];
      args.neighbours = model_.ropes[static_cast<std::size_t>(config.rope)].rotates_neighbours;
      args.cos = rope.cos.as<float>();
      args.sin = rope.sin.as<float>();
      args.pairs = rope.pairs;
    }
    return args;
  };
  const auto prepare = [&](std::int64_t element, std::int64_t heads, BlockWeights::NormIndex index,
                           bool norms, bool rotates) {
    prepare_heads(heads_args(element, heads, index, norms, rotates), stream_);
  };
  const auto norm_together = [&](std::int64_t element, std::int64_t heads, BlockWeights::NormIndex index) {
    const BlockWeights::Norm norm = block.norm(index);
    if (!norm.present) return;
    NormArgs args = norm_args(model_, norm.gain, norm.bias, view_of(nullptr, DType::kF32, x.rows, heads * d));
    norm_rows(args, start(element), compute_, qkv.stride, stream_);
  };
  const bool normed =
      block.norm(BlockWeights::kQueryNorm).present || block.norm(BlockWeights::kKeyNorm).present;
  expect(!together || !normed || !interleaved, "norms over all heads: heads that follow each other");
  if (together) {
    norm_together(0, num_heads, BlockWeights::kQueryNorm);
    norm_together(k_start, num_kv_heads, BlockWeights::kKeyNorm);
  }
  bool norms = true;
  if (model_.qkv_clip > 0.0f) {  // between the norms and the rotation
    if (normed && !together) {
      prepare(0, num_heads, BlockWeights::kQueryNorm, true, false);
      prepare(k_start, num_kv_heads, BlockWeights::kKeyNorm, true, false);
    }
    clip_rows(qkv.data, compute_, x.rows, qkv.cols, qkv.stride, model_.qkv_clip, stream_);
    norms = false;
  }
  const DeviceView mixed = view_of(mixed_.view().data, compute_, x.rows, num_heads * d);
  AttentionArgs args;
  args.q = start(0);
  args.k = start(k_start);
  args.v = start(v_start);
  args.out = mixed.data;
  args.dtype = compute_;
  args.rows = x.rows;
  args.sequence_length = cache_ == nullptr ? seqlen_ : cached_.length;
  args.row_stride = qkv.stride;
  args.head_stride = head_stride;
  args.num_heads = num_heads;
  args.num_kv_heads = num_kv_heads;
  args.head_size = d;
  args.scale = model_.attention_scale;
  args.softcap = model_.attention_softcap;
  args.window = block.config().attention_window;
  args.sinks = block.sinks();
  CacheArgs cache;
  if (cache_ != nullptr) {
    cache = {.keys = cache_->keys.view().data,
             .values = cache_->values.view().data,
             .capacity = cached_.capacity,
             .lanes = cached_.lanes,
             .positions = cached_.positions,
             .scratch = cached_.scratch};
  }
  bool appended = false;
  if (!normed && !interleaved && !model_.query_scaling) {  // one after the other
    const HeadsArgs heads = heads_args(0, num_heads + num_kv_heads, BlockWeights::kQueryNorm, false, true);
    appended = cache_ != nullptr && rotate_and_append(heads, args, cache, stream_);
    if (!appended) prepare_heads(heads, stream_);
  } else {
    prepare(0, num_heads, BlockWeights::kQueryNorm, norms, true);
    prepare(k_start, num_kv_heads, BlockWeights::kKeyNorm, norms, true);
  }
  if (cache_ != nullptr && !appended) append_cache(args, cache, stream_);
  if (cache_ == nullptr || cached_.from_start) {
    cuda::attention(args, stream_);
  } else {
    cached_attention(args, cache, stream_);
  }
  return mixed;
}

DeviceView BlockForward::up(const BlockWeights& block, DeviceView x) {
  const DeviceView up = view_of(up_.view().data, compute_, x.rows, block.group_rows(kMlp));
  linear(block, kMlp, x, up);
  return up;
}

DeviceView BlockForward::mlp(const BlockWeights& block, DeviceView x) {
  const DeviceView up = this->up(block, x);
  const DeviceView inner = view_of(inner_.view().data, compute_, x.rows, block.config().down.inputs);
  activate(kind_of(model_.activation), model_.gated_mlp, up.data, x.rows, inner.cols, inner.data, compute_,
           stream_);
  return inner;
}

void BlockForward::add_shared(const BlockWeights& block, DeviceView x, DeviceView hidden,
                              const DeviceObserver* observer) {
  if (block.config().up.empty()) return;
  const DeviceView inner = mlp(block, x);
  if (observer != nullptr) (*observer)(kMlpOutput, inner);
  if (block.shared_gate() != nullptr) {
    gate_rows(x.data, compute_, block.shared_gate(), x.rows, x.cols, inner.cols, inner.data, stream_);
  }
  linear(block, kMlpOutput, inner, hidden, true);
}

bool BlockForward::norms_output(const BlockWeights& block, LinearInput which) {
  return block.norm(which == kAttentionOutput ? BlockWeights::kPostAttentionNorm : BlockWeights::kPostMlpNorm)
      .present;
}

DeviceView BlockForward::project(const BlockWeights& block, LinearInput which, DeviceView x) {
  const DeviceView out = out_.view().row_block(0, x.rows);
  linear(block, which, x, out);
  return out;
}

void BlockForward::add_projected(const BlockWeights& block, LinearInput which, DeviceView y,
                                 DeviceView hidden) {
  const auto index =
      which == kAttentionOutput ? BlockWeights::kPostAttentionNorm : BlockWeights::kPostMlpNorm;
  const BlockWeights::Norm norm = block.norm(index);
  auto* target = static_cast<float*>(hidden.data);
  if (norm.present) {
    norm_add(norm_args(model_, norm.gain, norm.bias, y), model_.residual_scale, target, stream_);
  } else {
    add(y.data, DType::kF32, target, y.numel(), stream_, model_.residual_scale);
  }
}

void BlockForward::project_and_add(const BlockWeights& block, LinearInput which, DeviceView x,
                                   DeviceView hidden) {
  if (norms_output(block, which) || model_.residual_scale != 1.0f) {
    add_projected(block, which, project(block, which, x), hidden);
  } else {
    linear(block, which, x, hidden, true);
  }
}

void BlockForward::run_cached(const BlockWeights& block, DeviceView hidden, DeviceCache& cache,
                              const CachedRows& rows) {
  expect(rows.length > 0 && hidden.rows % rows.length == 0, "run_cached: whole runs of rows");
  cache_ = &cache;
  cached_ = rows;
  run(block, hidden);
  cache_ = nullptr;
}

void BlockForward::run(const BlockWeights& block, DeviceView hidden, const DeviceObserver* observer,
                       bool observes_only) {
  const auto observe = [&](LinearInput input, DeviceView x) {
    if (observer != nullptr) (*observer)(input, x);
  };
  DeviceView x = input_of(block, kAttention, hidden);
  observe(kAttention, x);
  const DeviceView mixed = attention(block, x);
  observe(kAttentionOutput, mixed);
  // With a parallel residual the MLP reads the block's input, else the input plus attention.
  if (model_.parallel_residual) {
    x = input_of(block, kMlp, hidden);
    project_and_add(block, kAttentionOutput, mixed, hidden);
  } else {
    project_and_add(block, kAttentionOutput, mixed, hidden);
    x = input_of(block, kMlp, hidden);
  }
  observe(kMlp, x);
  if (block.config().experts) {
    add_shared(block, x, hidden, observer);
    if (observes_only) return;
    return experts_->add_outputs(block, x, hidden, cache_ != nullptr && cached_.length == 1);
  }
  const DeviceView inner = mlp(block, x);
  observe(kMlpOutput, inner);
  if (!observes_only) project_and_add(block, kMlpOutput, inner, hidden);
}

}  // namespace swiftprune::cuda
