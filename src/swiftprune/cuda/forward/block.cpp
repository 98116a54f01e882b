#include "swiftprune/cuda/forward/block.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/expert_kernels.h"
#include "swiftprune/cuda/forward/xielu.h"
#include "swiftprune/model/observed_linear.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;

std::size_t at(LinearInput input) { return static_cast<std::size_t>(input); }

// What experts add joins the residual as it is, behind the attention.
void check_experts_sum(const ModelConfig& model) {
  for (const BlockConfig& block : model.blocks) {
    if (!block.experts || (!model.parallel_residual && !block.post_mlp_norm && block.output_scale.empty() &&
                           block.down.scale == 1.0f)) {
      continue;
    }
    bad_usage(
        "model of the family {}: found experts {}, expected them behind the attention, as they are, {}; {}",
        model.family,
        model.parallel_residual ? "beside the attention" : "with a norm or a factor of their own behind them",
        capabilities().where, capabilities().instead);
  }
}

// Rows that carry something are no contiguous sums of products: what joins them is normed.
void check_carried(const ModelConfig& model) {
  if (model.carried == 0) return;
  for (const BlockConfig& block : model.blocks) {
    expect(block.post_attention_norm && block.post_mlp_norm && !block.experts && !model.parallel_residual,
           "BlockForward: rows that carry something, in blocks that norm their outputs");
  }
}

}  // namespace

void to_compute(DeviceView x, DeviceView y, cudaStream_t stream) {
  if (x.stride == x.cols) return convert(x.data, x.dtype, y.data, y.dtype, x.numel(), stream);
  CopyHeadsArgs args;
  args.x = x.data;
  args.x_dtype = x.dtype;
  args.x_row_stride = x.stride;
  args.y = y.data;
  args.y_dtype = y.dtype;
  args.y_row_stride = y.stride;
  args.rows = x.rows;
  args.size = x.cols;
  copy_heads(args, stream);
}

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
  args.stride = x.stride;
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
  check_carried(model_);
  check_packed_experts(model, compute);
  std::int64_t qkv = 0;
  std::int64_t up = 0;
  std::int64_t mixed = 0;
  std::int64_t inner = 0;
  std::int64_t expanded = 0;
  for (const BlockConfig& block : model_.blocks) {
    const auto by_input = products_by_input(block);
    const auto outputs = [](const std::vector<LinearTensors>& linears) {
      std::int64_t sum = 0;
      for (const LinearTensors& linear : linears) sum += linear.outputs;
      return sum;
    };
    const auto all_outputs = [&](LinearInput input) {
      std::int64_t sum = 0;
      for (const auto& linears : by_input[at(input)]) sum += outputs(linears);
      return sum;
    };
    qkv = std::max(qkv, all_outputs(kAttention));
    up = std::max(up, all_outputs(kMlp));
    mixed = std::max(mixed, observed_width(block, kAttentionOutput, model_.hidden_size));
    inner = std::max(inner, observed_width(block, kMlpOutput, model_.hidden_size));
    for (const LinearsOfProducts& of_input : by_input) {
      for (const auto& linears : of_input) {
        if (!is_packed(model.checkpoint(), linears)) continue;
        expanded = std::max(expanded, outputs(linears) * linears.front().inputs);
      }
    }
  }
  x_ = DeviceMatrix(memory, compute, rows, model_.hidden_size, kActivations);
  qkv_ = DeviceBuffer(memory,
                      static_cast<std::uint64_t>(rows * qkv * size_of(compute)) +
                          kMostProducts * static_cast<std::uint64_t>(kProductAlignment),
                      kActivations);
  mixed_ = DeviceMatrix(memory, compute, rows, mixed, kActivations);
  up_ = DeviceMatrix(memory, compute, rows, up, kActivations);
  inner_ = DeviceMatrix(memory, compute, rows, inner, kActivations);
  out_ = DeviceMatrix(memory, DType::kF32, rows, model_.hidden_size, kActivations);
  make_room_for_heads(memory);
  if (expanded > 0 && rows > kMaxDecodeTokens) {
    expanded_ =
        DeviceBuffer(memory, static_cast<std::uint64_t>(expanded * size_of(compute)), "expanded weights");
  }
  if (model_.has_recurrent_blocks()) mixer_.emplace(memory, model_, rows, compute, stream);
  if (model_.has_experts()) experts_.emplace(memory, products, model, rows, compute, stream);
  if (model_.has_adapter) adapter_.emplace(memory, products, model, rows, compute, stream);
  if (model_.layer_embeddings) layer_inputs_.emplace(memory, products, model, rows, compute, stream);
  for (const RopeTable& table : model.rope_tables(seqlen)) {
    Rope rope;
    rope.pairs = table.cos.cols();
    rope.cos = upload(memory, table.cos.values(), "rotary tables", stream);
    rope.sin = upload(memory, table.sin.values(), "rotary tables", stream);
    check(cudaStreamSynchronize(stream));  // the tables live on the host until here
    ropes_.push_back(std::move(rope));
  }
}

DeviceView BlockForward::input_of(const BlockWeights& block, LinearInput input, DeviceView rows) {
  const DeviceView hidden = hidden_of(model_, rows), x = x_.view().row_block(0, hidden.rows);
  const auto index = input == kAttention ? BlockWeights::kAttentionNorm : BlockWeights::kMlpNorm;
  const BlockWeights::Norm norm = block.norm(index);
  if (!norm.present) {
    to_compute(hidden, x, stream_);
    return x;
  }
  cuda::norm(norm_args(model_, norm.gain, norm.bias, hidden), x.data, compute_, stream_);
  return x;
}

DeviceView BlockForward::up(const BlockWeights& block, DeviceView x) {
  const DeviceView up = view_of(up_.view().data, compute_, x.rows, block.group_rows(kMlp));
  linear(block, kMlp, x, up);
  scale_products(block.config().up, up);
  return up;
}

void BlockForward::scale_products(const std::vector<LinearTensors>& linears, DeviceView y) {
  std::int64_t first = 0;
  for (const LinearTensors& linear : linears) {
    if (linear.scale != 1.0f) {
      const DeviceView part = y.col_block(first, linear.outputs);
      scale_rows(part.data, part.dtype, part.rows, part.cols, part.stride, linear.scale, stream_);
    }
    first += linear.outputs;
  }
}

DeviceView BlockForward::mlp(const BlockWeights& block, DeviceView x) {
  if (block.config().up.empty()) return view_of(inner_.view().data, compute_, x.rows, 0);
  const DeviceView up = this->up(block, x);
  const DeviceView inner = view_of(inner_.view().data, compute_, x.rows, block.config().down.inputs);
  if (block.xielu()) {
    xielu(*block.xielu(), up.data, inner.numel(), inner.data, compute_, stream_);
  } else {
    activate(kind_of(model_.activation), model_.gated_mlp, up.data, x.rows, inner.cols, inner.data, compute_,
             stream_);
  }
  return inner;
}

void BlockForward::add_shared(const BlockWeights& block, DeviceView x, DeviceView hidden,
                              const DeviceObserver* observer, float factor) {
  if (block.config().up.empty()) return;
  const DeviceView inner = mlp(block, x);
  if (observer != nullptr) (*observer)(kMlpOutput, inner);
  if (block.shared_gate() != nullptr) {
    gate_rows(x.data, compute_, block.shared_gate(), x.rows, x.cols, inner.cols, inner.data, stream_);
  }
  if (factor == 1.0f) return linear(block, kMlpOutput, inner, hidden, true);
  const DeviceView out = project(block, kMlpOutput, inner);
  add(out.data, DType::kF32, static_cast<float*>(hidden.data), out.numel(), stream_, factor);
}

bool BlockForward::norms_output(const BlockWeights& block, LinearInput which) {
  return block.norm(which == kAttentionOutput ? BlockWeights::kPostAttentionNorm : BlockWeights::kPostMlpNorm)
      .present;
}

DeviceView BlockForward::project(const BlockWeights& block, LinearInput which, DeviceView x) {
  const DeviceView out = out_.view().row_block(0, x.rows);
  if (x.cols == 0) {  // the block has nothing that reads it
    check(cudaMemsetAsync(out.data, 0, static_cast<std::size_t>(out.numel()) * sizeof(float), stream_));
    return out;
  }
  const BlockConfig& config = block.config();
  const float scale = (which == kAttentionOutput ? config.attention_output : config.down).scale;
  const bool beside = which == kAttentionOutput && config.beside.has_value();
  linear(block, which, beside ? part_of(x, config.attention_output) : x, out);
  if (scale != 1.0f) scale_rows(out.data, out.dtype, out.rows, out.cols, out.stride, scale, stream_);
  if (!beside) return out;
  const DeviceView more = more_out_.view().row_block(0, x.rows);
  linear(block, which, part_of(x, config.beside->output), more, false, 1);
  add(more.data, DType::kF32, static_cast<float*>(out.data), more.numel(), stream_,
      config.beside->output.scale);
  return out;
}

// Its rows without what others read of them.
DeviceView BlockForward::part_of(DeviceView x, const LinearTensors& linear) {
  const DeviceView part = view_of(part_.view().data, compute_, x.rows, linear.inputs);
  to_compute(x.col_block(linear.first_input, linear.inputs), part, stream_);
  return part;
}

void BlockForward::add_projected(const BlockWeights& block, LinearInput which, DeviceView y,
                                 DeviceView rows) {
  const DeviceView hidden = hidden_of(model_, rows);
  const auto index =
      which == kAttentionOutput ? BlockWeights::kPostAttentionNorm : BlockWeights::kPostMlpNorm;
  const BlockWeights::Norm norm = block.norm(index);
  auto* target = static_cast<float*>(hidden.data);
  if (norm.present) {
    norm_add(norm_args(model_, norm.gain, norm.bias, y), model_.residual_scale, target, stream_,
             hidden.stride);
  } else {
    add(y.data, DType::kF32, target, y.numel(), stream_, model_.residual_scale);
  }
  if (which == kMlpOutput) end_block(block, rows);
}

void BlockForward::end_block(const BlockWeights& block, DeviceView rows) {
  if (layer_inputs_) {
    layer_inputs_->add(block.layer(), rows, x_.view().row_block(0, rows.rows),
                       out_.view().row_block(0, rows.rows));
  }
  if (block.output_scale() == 1.0f) return;
  const DeviceView hidden = hidden_of(model_, rows);
  scale_rows(hidden.data, hidden.dtype, hidden.rows, hidden.cols, hidden.stride, block.output_scale(),
             stream_);
}

void BlockForward::project_and_add(const BlockWeights& block, LinearInput which, DeviceView x,
                                   DeviceView hidden) {
  if (x.cols == 0) return;
  const bool beside = which == kAttentionOutput && block.config().beside.has_value();
  if (norms_output(block, which) || beside || output_factor(model_, block.config(), which) != 1.0f) {
    add_projected(block, which, project(block, which, x), hidden);
    return;
  }
  linear(block, which, x, hidden, true);
  if (which == kMlpOutput) end_block(block, hidden);
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
  const BlockConfig& config = block.config();
  DeviceView x, mixed;
  if (config.has_mixer()) {
    x = input_of(block, kAttention, hidden);
    observe(kAttention, x);
    mixed = attention(block, x, hidden);
    observe(kAttentionOutput, mixed);
    if (observes_only && !config.has_mlp()) return;
  }
  // With a parallel residual the MLP reads the block's input, else the input plus attention.
  if (model_.parallel_residual && config.has_mlp()) x = input_of(block, kMlp, hidden);
  project_and_add(block, kAttentionOutput, mixed, hidden);
  if (!config.has_mlp()) return;
  if (!model_.parallel_residual) x = input_of(block, kMlp, hidden);
  observe(kMlp, x);
  if (config.experts) {
    const float factor = model_.residual_scale;
    add_shared(block, x, hidden, observer, factor);
    if (observes_only) return;
    return experts_->add_outputs(block, x, hidden, cache_ != nullptr && cached_.length == 1, factor);
  }
  const DeviceView inner = mlp(block, x);
  observe(kMlpOutput, inner);
  if (!observes_only) project_and_add(block, kMlpOutput, inner, hidden);
}

}  // namespace swiftprune::cuda
