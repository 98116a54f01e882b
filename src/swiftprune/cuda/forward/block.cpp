#include "swiftprune/cuda/forward/block.h"

#include <algorithm>
#include <cstring>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;

constexpr std::int64_t kAlignment = 256;  // of groups: what cuBLASLt likes best

std::uint64_t aligned(std::uint64_t bytes) {
  return static_cast<std::uint64_t>(round_up(static_cast<std::int64_t>(bytes), kAlignment));
}

std::size_t at(LinearInput input) { return static_cast<std::size_t>(input); }

// Bytes that go to the device together, each part aligned.
class Extras {
 public:
  std::uint64_t add(std::span<const float> values, DType dtype) {
    const std::uint64_t offset = aligned(bytes_.size());
    bytes_.resize(offset + values.size() * static_cast<std::size_t>(size_of(dtype)));
    convert_from_f32(values, dtype, std::span(bytes_).subspan(offset));
    return offset;
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Whether any weight of the group is packed: then the group is not part of the layout.
bool is_packed(const Checkpoint& checkpoint, const std::vector<LinearTensors>& group) {
  return std::any_of(group.begin(), group.end(), [&](const LinearTensors& linear) {
    return checkpoint.find(linear.name + ".weight" + kPackedSuffix) != nullptr;
  });
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
    case Activation::kQuickGelu:
    case Activation::kClippedGelu:
    case Activation::kMish:
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
  args.gain_offset = args.layer ? 0.0f : model.norm_gain_offset;
  args.eps = model.norm_eps;
  args.rows = x.rows;
  args.cols = x.cols;
  return args;
}

std::array<std::vector<LinearTensors>, kNumLinearInputs> linears_by_input(const BlockConfig& block) {
  std::array<std::vector<LinearTensors>, kNumLinearInputs> groups;
  for (const LinearTensors& linear : linears_of(block)) groups[at(linear.input)].push_back(linear);
  return groups;
}

BlockLayout BlockWeights::layout_of(std::int64_t layer) const {
  BlockLayout layout;
  std::uint64_t end = 0;
  const BlockConfig& block = model_.config().blocks[static_cast<std::size_t>(layer)];
  std::uint64_t extras = 0;
  for (const auto& group : linears_by_input(block)) {
    end = aligned(end);
    const bool packed = is_packed(model_.checkpoint(), group);
    for (const LinearTensors& linear : group) {
      extras += aligned(static_cast<std::uint64_t>(linear.outputs) * sizeof(float));
      if (packed) continue;
      BlockLayout::Weight weight{linear.name + ".weight",
                                 model_.checkpoint().at(linear.name + ".weight").dtype,
                                 linear.input,
                                 linear.outputs,
                                 linear.inputs,
                                 end};
      end += weight.bytes();
      layout.weights.push_back(std::move(weight));
    }
  }
  const auto head = static_cast<std::uint64_t>(model_.config().head_size) * sizeof(float);
  const auto hidden = static_cast<std::uint64_t>(model_.config().hidden_size) * sizeof(float);
  extras += 8 * aligned(hidden) + 4 * aligned(head);
  layout.extras_offset = aligned(end);
  layout.extras_bytes = extras;
  layout.bytes = layout.extras_offset + extras;
  return layout;
}

BlockWeights::BlockWeights(DeviceMemory& memory, const Model& model, DType compute)
    : model_(model), compute_(compute) {
  std::uint64_t bytes = 0;
  std::uint64_t converted = 0;
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    layout_ = layout_of(layer);
    bytes = std::max(bytes, layout_.bytes);
    std::uint64_t elements = 0;
    bool converts = false;
    for (const BlockLayout::Weight& weight : layout_.weights) {
      elements += static_cast<std::uint64_t>(weight.rows * weight.cols) + kAlignment;
      converts |= weight.dtype != compute;
    }
    if (converts) converted = std::max(converted, elements * static_cast<std::uint64_t>(size_of(compute)));
  }
  buffer_ = DeviceBuffer(memory, bytes, "the weights of a block");
  if (converted > 0) converted_ = DeviceBuffer(memory, converted, "the converted weights of a block");
}

std::uint64_t BlockWeights::max_weight_bytes(const Model& model) {
  std::uint64_t most = 0;
  for (const BlockConfig& block : model.config().blocks) {
    for (const LinearTensors& linear : linears_of(block)) {
      most = std::max(most,
                      static_cast<std::uint64_t>(model.checkpoint().at(linear.name + ".weight").num_bytes()));
    }
  }
  return most;
}

std::vector<std::byte> BlockWeights::set_layer(std::int64_t layer) {
  layer_ = layer;
  layout_ = layout_of(layer);
  const Checkpoint& checkpoint = model_.checkpoint();
  const ModelConfig& model = model_.config();
  Extras extras;
  const auto add_norm = [&](NormIndex index, const NormTensors& tensors, std::int64_t size) {
    NormOffsets& offsets = norms_[index];
    offsets.present = true;
    offsets.has_gain = !tensors.gain.empty();
    offsets.has_bias = !tensors.bias.empty();
    if (offsets.has_gain) offsets.gain = extras.add(checkpoint.load_vector(tensors.gain, size), DType::kF32);
    if (offsets.has_bias) offsets.bias = extras.add(checkpoint.load_vector(tensors.bias, size), DType::kF32);
  };
  norms_ = {};
  const BlockConfig& block = config();
  if (block.attention_norm) add_norm(kAttentionNorm, *block.attention_norm, model.hidden_size);
  if (block.mlp_norm) add_norm(kMlpNorm, *block.mlp_norm, model.hidden_size);
  if (block.post_attention_norm) add_norm(kPostAttentionNorm, *block.post_attention_norm, model.hidden_size);
  if (block.post_mlp_norm) add_norm(kPostMlpNorm, *block.post_mlp_norm, model.hidden_size);
  if (block.query_norm) add_norm(kQueryNorm, *block.query_norm, model.head_size);
  if (block.key_norm) add_norm(kKeyNorm, *block.key_norm, model.head_size);

  bias_offsets_.fill(-1);
  const auto groups = linears_by_input(block);
  for (std::size_t i = 0; i < groups.size(); ++i) {
    std::vector<float> bias;
    bool any = reserved_bias_[i];
    for (const LinearTensors& linear : groups[i]) {
      any |= linear.bias;
      std::vector<float> part(static_cast<std::size_t>(linear.outputs), 0.0f);
      if (linear.bias) part = checkpoint.load_vector(linear.name + ".bias", linear.outputs);
      bias.insert(bias.end(), part.begin(), part.end());
    }
    const DType dtype = is_output(static_cast<LinearInput>(i)) ? DType::kF32 : compute_;
    if (any) bias_offsets_[i] = static_cast<std::int64_t>(extras.add(bias, dtype));
  }
  std::vector<std::byte> bytes = extras.take();
  expect(bytes.size() <= layout_.extras_bytes, "BlockWeights: room for norms and biases");
  return bytes;
}

std::size_t BlockWeights::output_projection(LinearInput output) const {
  const auto found = std::find_if(layout_.weights.begin(), layout_.weights.end(),
                                  [&](const BlockLayout::Weight& weight) { return weight.input == output; });
  expect(is_output(output) && found != layout_.weights.end(), "output_projection: an output's input");
  return static_cast<std::size_t>(found - layout_.weights.begin());
}

void BlockWeights::set_bias(LinearInput output, std::span<const float> bias, cudaStream_t stream) {
  expect(is_output(output) && bias_offsets_[at(output)] >= 0, "set_bias: an output projection's bias");
  check(cudaMemcpyAsync(const_cast<void*>(this->bias(output)), bias.data(), bias.size_bytes(),
                        cudaMemcpyHostToDevice, stream));  // pageable: read before the call returns
}

void BlockWeights::silence(cudaStream_t stream) {
  for (const LinearInput output : {kAttentionOutput, kMlpOutput}) {
    const DeviceView weight = this->weight(output_projection(output));
    check(cudaMemsetAsync(weight.data, 0, static_cast<std::size_t>(weight.numel() * size_of(weight.dtype)),
                          stream));
    if (bias(output) == nullptr) continue;
    check(cudaMemsetAsync(const_cast<void*>(bias(output)), 0,
                          static_cast<std::size_t>(weight.rows) * sizeof(float), stream));
  }
}

DeviceView BlockWeights::weight(std::size_t linear) const {
  const BlockLayout::Weight& weight = layout_.weights[linear];
  return view_of(buffer_.data() + weight.offset, weight.dtype, weight.rows, weight.cols);
}

bool BlockWeights::is_converted(LinearInput input) const {
  return std::any_of(layout_.weights.begin(), layout_.weights.end(), [&](const BlockLayout::Weight& weight) {
    return weight.input == input && weight.dtype != compute_;
  });
}

DeviceView BlockWeights::group(LinearInput input) const {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t elements_before = 0;
  const std::byte* first = nullptr;
  for (const BlockLayout::Weight& weight : layout_.weights) {
    if (weight.input < input) elements_before += weight.rows * weight.cols;
    if (weight.input != input) continue;
    if (first == nullptr) first = buffer_.data() + weight.offset;
    rows += weight.rows;
    cols = weight.cols;
  }
  if (is_converted(input)) {
    // Groups stay aligned: each may begin up to kAlignment elements later.
    const std::int64_t start =
        round_up(elements_before, kAlignment) + static_cast<std::int64_t>(at(input)) * kAlignment;
    first = converted_.data() + start * size_of(compute_);
  }
  return view_of(const_cast<std::byte*>(first), compute_, rows, cols);
}

const void* BlockWeights::bias(LinearInput input) const {
  const std::int64_t offset = bias_offsets_[at(input)];
  return offset < 0 ? nullptr : buffer_.data() + layout_.extras_offset + offset;
}

void BlockWeights::refresh(LinearInput input, cudaStream_t stream) {
  if (!is_converted(input)) return;
  const DeviceView target = group(input);
  std::int64_t row = 0;
  for (std::size_t i = 0; i < layout_.weights.size(); ++i) {
    if (layout_.weights[i].input != input) continue;
    const DeviceView source = weight(i);
    convert(source.data, source.dtype, target.row(row), compute_, source.numel(), stream);
    row += source.rows;
  }
}

void BlockWeights::refresh(cudaStream_t stream) {
  for (int i = 0; i < kNumLinearInputs; ++i) refresh(static_cast<LinearInput>(i), stream);
}

void BlockWeights::load_packed(DeviceMemory& memory, cudaStream_t stream) {
  const auto groups = linears_by_input(config());
  const Checkpoint& checkpoint = model_.checkpoint();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    packed_[i].reset();
    if (!is_packed(checkpoint, groups[i])) continue;
    std::vector<PackedTensor> parts;
    for (const LinearTensors& linear : groups[i]) {
      const std::string name = linear.name + ".weight";
      std::optional<PackedTensor> part = find_packed(checkpoint, name, linear.outputs, linear.inputs);
      if (!part) part = pack_dense(checkpoint, name);
      if (!part || part->shape().dtype != compute_) {
        bad_input(
            "{}: found {}, expected packed or dense {} as the other weights that read its input; use "
            "--device cpu",
            name, part ? name_of(part->shape().dtype) : "a dtype that cannot be packed", name_of(compute_));
      }
      parts.push_back(std::move(*part));
    }
    packed_[i].emplace(memory, parts, stream);
  }
}

std::int64_t BlockWeights::group_rows(LinearInput input) const {
  return packed_[at(input)] ? packed_[at(input)]->rows() : group(input).rows;
}

std::int64_t BlockWeights::linear_bytes() const {
  std::int64_t bytes = 0;
  for (int i = 0; i < kNumLinearInputs; ++i) {
    const auto input = static_cast<LinearInput>(i);
    bytes += packed_[at(input)] ? static_cast<std::int64_t>(packed_[at(input)]->bytes())
                                : group(input).numel() * size_of(compute_);
  }
  return bytes;
}

void BlockWeights::linear(Products& products, LinearInput input, DeviceView x, DeviceView y, bool accumulate,
                          DevicePacked::Scratch scratch, cudaStream_t stream) const {
  if (packed_[at(input)]) {
    packed_[at(input)]->linear(products, x, bias(input), y, accumulate, scratch, stream);
  } else {
    products.linear(x, group(input), bias(input), y, accumulate);
  }
}

void BlockWeights::product(Products& products, LinearInput input, DeviceView x, DeviceView y,
                           DevicePacked::Scratch scratch, cudaStream_t stream) const {
  if (packed_[at(input)]) {
    packed_[at(input)]->linear(products, x, nullptr, y, false, scratch, stream);
  } else {
    products.linear(x, group(input), nullptr, y);
  }
}

void BlockWeights::copy_from(const BlockWeights& other, cudaStream_t stream) {
  layer_ = other.layer_;
  layout_ = other.layout_;
  norms_ = other.norms_;
  bias_offsets_ = other.bias_offsets_;
  check(
      cudaMemcpyAsync(buffer_.data(), other.buffer_.data(), layout_.bytes, cudaMemcpyDeviceToDevice, stream));
  refresh(stream);
}

BlockWeights::Norm BlockWeights::norm(NormIndex index) const {
  const NormOffsets& offsets = norms_[index];
  const std::byte* extras = buffer_.data() + layout_.extras_offset;
  const auto pointer = [&](bool has, std::uint64_t offset) {
    return has ? reinterpret_cast<const float*>(extras + offset) : nullptr;
  };
  return {pointer(offsets.has_gain, offsets.gain), pointer(offsets.has_bias, offsets.bias), offsets.present};
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
  std::int64_t qkv = 0;
  std::int64_t up = 0;
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
  inner_ = DeviceMatrix(memory, compute, rows, model_.intermediate_size, kWhat);
  out_ = DeviceMatrix(memory, DType::kF32, rows, model_.hidden_size, kWhat);
  if (expanded > 0 && rows > kMaxDecodeTokens) {
    expanded_ =
        DeviceBuffer(memory, static_cast<std::uint64_t>(expanded * size_of(compute)), "expanded weights");
  }
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
  const auto prepare = [&](std::int64_t element, std::int64_t heads, BlockWeights::NormIndex index) {
    const BlockWeights::Norm norm = block.norm(index);
    HeadsArgs args;
    args.data = start(element);
    args.dtype = compute_;
    args.rows = x.rows;
    args.row_stride = qkv.stride;
    args.head_stride = head_stride;
    args.num_heads = heads;
    args.head_size = d;
    args.gain = norm.gain;
    args.bias = norm.bias;
    args.layer = model_.norm == NormKind::kLayer;
    args.gain_offset = args.layer ? 0.0f : model_.norm_gain_offset;
    args.eps = model_.norm_eps;
    args.sequence_length = cache_ == nullptr ? seqlen_ : cached_.length;
    args.positions = cache_ == nullptr ? nullptr : cached_.positions;
    if (block.config().rope >= 0) {
      const Rope& rope = ropes_[static_cast<std::size_t>(block.config().rope)];
      args.cos = rope.cos.as<float>();
      args.sin = rope.sin.as<float>();
      args.pairs = rope.pairs;
    }
    prepare_heads(args, stream_);
  };
  const bool normed =
      block.norm(BlockWeights::kQueryNorm).present || block.norm(BlockWeights::kKeyNorm).present;
  if (!normed && !interleaved) {
    prepare(0, num_heads + num_kv_heads, BlockWeights::kQueryNorm);  // one after the other
  } else {
    prepare(0, num_heads, BlockWeights::kQueryNorm);
    prepare(k_start, num_kv_heads, BlockWeights::kKeyNorm);
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
  if (cache_ == nullptr) {
    cuda::attention(args, stream_);
    return mixed;
  }
  const CacheArgs cache{.keys = cache_->keys.view().data,
                        .values = cache_->values.view().data,
                        .capacity = cached_.capacity,
                        .lanes = cached_.lanes,
                        .positions = cached_.positions,
                        .scratch = cached_.scratch};
  append_cache(args, cache, stream_);
  if (cached_.from_start) {
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
    norm_add(norm_args(model_, norm.gain, norm.bias, y), target, stream_);
  } else {
    add(y.data, DType::kF32, target, y.numel(), stream_);
  }
}

void BlockForward::project_and_add(const BlockWeights& block, LinearInput which, DeviceView x,
                                   DeviceView hidden) {
  if (norms_output(block, which)) {
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

void BlockForward::run(const BlockWeights& block, DeviceView hidden, const DeviceObserver* observer) {
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
  const DeviceView inner = mlp(block, x);
  observe(kMlpOutput, inner);
  project_and_add(block, kMlpOutput, inner, hidden);
}

}  // namespace swiftprune::cuda
