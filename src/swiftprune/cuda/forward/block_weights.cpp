#include "swiftprune/cuda/forward/block_weights.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/norm_gain.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;

constexpr std::int64_t kAlignment = 256;  // of groups: what cuBLASLt likes best

std::uint64_t aligned(std::uint64_t bytes) {
  return static_cast<std::uint64_t>(round_up(static_cast<std::int64_t>(bytes), kAlignment));
}

std::size_t at(LinearInput input) { return static_cast<std::size_t>(input); }

}  // namespace

// Bytes that go to the device together, each part aligned.
class BlockWeights::Extras {
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

DeviceMatrix uploaded(DeviceMemory& memory, const Matrix& values, DType compute, std::string_view what,
                      cudaStream_t stream) {
  const DeviceBuffer given = upload(memory, values.values(), what, stream);
  DeviceMatrix result(memory, compute, values.rows(), values.cols(), what);
  convert(given.data(), DType::kF32, result.view().data, compute, values.numel(), stream);
  check(cudaStreamSynchronize(stream));  // `given` lives until here
  return result;
}

bool is_packed(const Checkpoint& checkpoint, const std::vector<LinearTensors>& group) {
  return std::any_of(group.begin(), group.end(), [&](const LinearTensors& linear) {
    return checkpoint.find(linear.name + ".weight" + kPackedSuffix) != nullptr;
  });
}

std::array<std::vector<LinearTensors>, kNumLinearInputs> linears_by_input(const BlockConfig& block) {
  std::array<std::vector<LinearTensors>, kNumLinearInputs> groups;
  for (const LinearTensors& linear : linears_of(block)) groups[at(linear.input)].push_back(linear);
  return groups;
}

std::array<LinearsOfProducts, kNumLinearInputs> products_by_input(const BlockConfig& block) {
  std::array<LinearsOfProducts, kNumLinearInputs> products;
  const auto linears = linears_by_input(block);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const bool alone = (block.latent && i == at(kAttention)) || (block.beside && i == at(kAttentionOutput));
    for (const LinearTensors& linear : linears[i]) {
      if (alone || products[i].empty()) products[i].emplace_back();
      products[i].back().push_back(linear);
    }
    expect(products[i].size() <= kMostProducts, "products_by_input: a few products of an input");
  }
  return products;
}

std::int64_t widest_input(const ModelConfig& model) {
  std::int64_t widest = model.hidden_size;
  for (const BlockConfig& block : model.blocks) {
    for (int i = 0; i < kNumLinearInputs; ++i)
      widest = std::max(widest, observed_width(block, static_cast<LinearInput>(i), model.hidden_size));
  }
  return widest;
}

BlockLayout BlockWeights::layout_of(std::int64_t layer) const {
  BlockLayout layout;
  std::uint64_t end = 0;
  const BlockConfig& block = model_.config().blocks[static_cast<std::size_t>(layer)];
  std::uint64_t extras = 0;
  for (const LinearsOfProducts& of_input : products_by_input(block)) {
    for (std::size_t product = 0; product < of_input.size(); ++product) {
      end = aligned(end);
      const bool packed = is_packed(model_.checkpoint(), of_input[product]);
      for (const LinearTensors& linear : of_input[product]) {
        extras += aligned(static_cast<std::uint64_t>(linear.outputs) * sizeof(float));
        if (packed) continue;
        BlockLayout::Weight weight{linear.name + ".weight",
                                   model_.checkpoint().at(linear.name + ".weight").dtype,
                                   linear.input,
                                   linear.outputs,
                                   linear.inputs,
                                   end,
                                   product};
        end += weight.bytes();
        layout.weights.push_back(std::move(weight));
      }
    }
  }
  const auto head = static_cast<std::uint64_t>(std::max(model_.config().query_norm_size(block),
                                                        model_.config().key_norm_size(block))) *
                    sizeof(float);
  const auto hidden = static_cast<std::uint64_t>(model_.config().hidden_size) * sizeof(float);
  extras += 8 * aligned(hidden) + 4 * aligned(head);
  const auto floats = [](std::int64_t count) {
    return aligned(static_cast<std::uint64_t>(count) * sizeof(float));
  };
  if (const auto& latent = block.latent) extras += floats(latent->rank) + floats(latent->query_rank);
  if (block.has_state()) {
    RecurrentMixer mixer = block.mixer();
    for (const MixerTensor& tensor : tensors_of(mixer)) {
      extras += floats(
          std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>()));
    }
  }
  if (const auto& experts = block.experts) {
    const auto weights = static_cast<std::uint64_t>(experts->count * experts->width *
                                                    model_.config().hidden_size * size_of(compute_));
    const std::uint64_t inner_parts = inner_parts_of(*experts).size();
    layout.packed_experts = cuda::has_packed_experts(model_, block);
    if (!layout.packed_experts) {
      layout.expert_up_offset = aligned(end);
      layout.expert_down_offset = aligned(layout.expert_up_offset + inner_parts * weights);
      end = layout.expert_down_offset + weights;
    }
    const auto each = static_cast<std::uint64_t>(experts->count);
    extras += aligned(each * hidden) + 2 * aligned(each * sizeof(float)) + aligned(hidden);
    if (experts->bias) {
      extras += aligned(each * 2 * static_cast<std::uint64_t>(experts->width) * sizeof(float)) +
                aligned(each * hidden);
    }
  }
  if (!block.sinks.empty()) extras += floats(model_.config().heads_in(block));
  layout.extras_offset = aligned(end);
  layout.extras_bytes = extras;
  layout.bytes = layout.extras_offset + extras;
  return layout;
}

BlockWeights::BlockWeights(DeviceMemory& memory, const Model& model, DType compute,
                           std::optional<std::int64_t> only)
    : model_(model), compute_(compute) {
  std::uint64_t bytes = 0;
  std::uint64_t converted = 0;
  const std::int64_t end = only ? *only + 1 : model.config().num_layers();
  for (std::int64_t layer = only.value_or(0); layer < end; ++layer) {
    layout_ = layout_of(layer);
    bytes = std::max(bytes, layout_.bytes);
    std::uint64_t elements = 0;
    bool converts = false;
    for (const BlockLayout::Weight& weight : layout_.weights) {
      elements += static_cast<std::uint64_t>(weight.rows * weight.cols) + kAlignment;
      converts |= weight.dtype != compute;
    }
    elements += kNumLinearInputs * kMostProducts * static_cast<std::uint64_t>(kAlignment);  // group()
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
    if (offsets.has_gain) offsets.gain = extras.add(load_gain(checkpoint, tensors, size), DType::kF32);
    if (offsets.has_bias) offsets.bias = extras.add(checkpoint.load_vector(tensors.bias, size), DType::kF32);
  };
  norms_ = {};
  const BlockConfig& block = config();
  if (block.attention_norm) add_norm(kAttentionNorm, *block.attention_norm, model.hidden_size);
  if (block.mlp_norm) add_norm(kMlpNorm, *block.mlp_norm, model.hidden_size);
  if (block.post_attention_norm) add_norm(kPostAttentionNorm, *block.post_attention_norm, model.hidden_size);
  if (block.post_mlp_norm) add_norm(kPostMlpNorm, *block.post_mlp_norm, model.hidden_size);
  if (block.query_norm) add_norm(kQueryNorm, *block.query_norm, model.query_norm_size(block));
  if (block.key_norm) add_norm(kKeyNorm, *block.key_norm, model.key_norm_size(block));

  if (block.latent) {
    add_norm(kLatentNorm, block.latent->norm, block.latent->rank);
    if (block.latent->query_rank > 0)
      add_norm(kLatentQueryNorm, block.latent->query_norm, block.latent->query_rank);
  }
  output_scale_ = block.output_scale.empty() ? 1.0f : checkpoint.load_vector(block.output_scale, 1).front();
  xielu_.reset();
  if (block.xielu) xielu_ = load_xielu(checkpoint, *block.xielu);
  mixer_offsets_.fill(-1);
  if (block.has_state()) add_mixer(block.mixer(), extras);

  const auto products = products_by_input(block);
  for (std::size_t i = 0; i < products.size(); ++i) {
    bias_offsets_[i].fill(-1);
    for (std::size_t p = 0; p < products[i].size(); ++p) {
      std::vector<float> bias;
      bool any = reserved_bias_[i] && p == 0;
      for (const LinearTensors& linear : products[i][p]) {
        any |= linear.bias;
        std::vector<float> part(static_cast<std::size_t>(linear.outputs), 0.0f);
        if (linear.bias) part = checkpoint.load_vector(linear.name + ".bias", linear.outputs);
        bias.insert(bias.end(), part.begin(), part.end());
      }
      const DType dtype = is_output(static_cast<LinearInput>(i)) ? DType::kF32 : compute_;
      if (any) bias_offsets_[i][p] = static_cast<std::int64_t>(extras.add(bias, dtype));
    }
  }
  experts_.reset();
  router_offset_ = router_bias_offset_ = correction_bias_offset_ = shared_gate_offset_ = -1;
  up_bias_offset_ = down_bias_offset_ = sinks_offset_ = -1;
  if (!block.sinks.empty()) {
    sinks_offset_ = static_cast<std::int64_t>(
        extras.add(checkpoint.load_vector(block.sinks, model.heads_in(block)), DType::kF32));
  }
  if (block.experts) add_experts(*block.experts, extras);
  std::vector<std::byte> bytes = extras.take();
  expect(bytes.size() <= layout_.extras_bytes, "BlockWeights: room for norms and biases");
  return bytes;
}

void BlockWeights::add_mixer(const RecurrentMixer& mixer, Extras& extras) {
  MixerWeights weights = load_mixer(model_.checkpoint(), mixer);
  if (const auto* mamba = std::get_if<Mamba2>(&mixer)) {
    const std::int64_t size = mamba->heads * mamba->head_size, shared = mamba->groups * mamba->state_size;
    for (std::int64_t c = 0; c < weights.taps.cols(); ++c) {
      const float scale = mamba->scales[c < size ? 1 : c < size + shared ? 2 : 3];
      for (std::int64_t j = 0; j < weights.taps.rows(); ++j) weights.taps.at(j, c) *= scale;
    }
  }
  const std::span<const float> parts[] = {weights.taps.values(), weights.bias, weights.decay,
                                          weights.step_bias,     weights.skip, weights.norm};
  for (std::size_t i = 0; i < mixer_offsets_.size(); ++i) {
    if (!parts[i].empty()) mixer_offsets_[i] = static_cast<std::int64_t>(extras.add(parts[i], DType::kF32));
  }
}

BlockWeights::Mixer BlockWeights::mixer() const {
  return {extra(mixer_offsets_[0]), extra(mixer_offsets_[1]), extra(mixer_offsets_[2]),
          extra(mixer_offsets_[3]), extra(mixer_offsets_[4]), extra(mixer_offsets_[5])};
}

void BlockWeights::add_experts(const ExpertsConfig& experts, Extras& extras) {
  const Checkpoint& checkpoint = model_.checkpoint();
  const std::int64_t hidden = model_.config().hidden_size;
  experts_.emplace(checkpoint, experts, hidden);
  const auto add = [&](std::span<const float> values) {
    return static_cast<std::int64_t>(extras.add(values, DType::kF32));
  };
  const RouterConfig& router = experts.router;
  router_offset_ = add(checkpoint.load_matrix(router.weight, experts.count, hidden).values());
  if (!router.bias.empty()) router_bias_offset_ = add(checkpoint.load_vector(router.bias, experts.count));
  if (!router.correction_bias.empty()) {
    correction_bias_offset_ = add(checkpoint.load_vector(router.correction_bias, experts.count));
  }
  if (experts.bias) {
    std::vector<float> up, down;
    for (std::int64_t e = 0; e < experts.count; ++e) {
      for (const ExpertPart part : parts_of(experts)) {
        const std::vector<float> bias = experts_->load_bias(e, part);
        std::vector<float>& to = part == ExpertPart::kDown ? down : up;
        to.insert(to.end(), bias.begin(), bias.end());
      }
    }
    up_bias_offset_ = static_cast<std::int64_t>(extras.add(up, compute_));
    down_bias_offset_ = add(down);
  }
  if (!experts.shared_gate.empty()) {
    shared_gate_offset_ = add(checkpoint.load_matrix(experts.shared_gate, 1, hidden).values());
  }
}

std::size_t BlockWeights::output_projection(LinearInput output) const {
  const auto found = std::find_if(layout_.weights.begin(), layout_.weights.end(),
                                  [&](const BlockLayout::Weight& weight) { return weight.input == output; });
  expect(is_output(output) && found != layout_.weights.end(), "output_projection: an output's input");
  return static_cast<std::size_t>(found - layout_.weights.begin());
}

void BlockWeights::set_bias(LinearInput output, std::span<const float> bias, cudaStream_t stream) {
  expect(is_output(output) && bias_offsets_[at(output)][0] >= 0, "set_bias: an output projection's bias");
  copy_to_device(bias, const_cast<void*>(this->bias(output)), stream);
}

void BlockWeights::silence(cudaStream_t stream) {
  for (std::size_t i = 0; i < layout_.weights.size(); ++i) {
    const BlockLayout::Weight& of = layout_.weights[i];
    if (!is_output(of.input)) continue;
    check(cudaMemsetAsync(weight(i).data, 0, static_cast<std::size_t>(of.bytes()), stream));
    if (bias(of.input, of.product) == nullptr) continue;
    check(cudaMemsetAsync(const_cast<void*>(bias(of.input, of.product)), 0,
                          static_cast<std::size_t>(of.rows) * sizeof(float), stream));
  }
}

DeviceView BlockWeights::weight(std::size_t linear) const {
  const BlockLayout::Weight& weight = layout_.weights[linear];
  return view_of(buffer_.data() + weight.offset, weight.dtype, weight.rows, weight.cols);
}

bool BlockWeights::is_converted(LinearInput input, std::size_t product) const {
  return std::any_of(layout_.weights.begin(), layout_.weights.end(), [&](const BlockLayout::Weight& weight) {
    return weight.input == input && weight.product == product && weight.dtype != compute_;
  });
}

DeviceView BlockWeights::group(LinearInput input, std::size_t product) const {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t elements_before = 0;
  const std::byte* first = nullptr;
  for (const BlockLayout::Weight& weight : layout_.weights) {
    if (weight.input < input || (weight.input == input && weight.product < product))
      elements_before += weight.rows * weight.cols;
    if (weight.input != input || weight.product != product) continue;
    if (first == nullptr) first = buffer_.data() + weight.offset;
    rows += weight.rows;
    cols = weight.cols;
  }
  if (is_converted(input, product)) {
    // Groups stay aligned: each may begin up to kAlignment elements later.
    const auto number = static_cast<std::int64_t>(at(input) * kMostProducts + product);
    const std::int64_t start = round_up(elements_before, kAlignment) + number * kAlignment;
    first = converted_.data() + start * size_of(compute_);
  }
  return view_of(const_cast<std::byte*>(first), compute_, rows, cols);
}

const void* BlockWeights::bias(LinearInput input, std::size_t product) const {
  const std::int64_t offset = bias_offsets_[at(input)][product];
  return offset < 0 ? nullptr : buffer_.data() + layout_.extras_offset + offset;
}

void BlockWeights::refresh(LinearInput input, cudaStream_t stream) {
  for (std::size_t product = 0; product < kMostProducts; ++product) refresh(input, product, stream);
}

void BlockWeights::refresh(LinearInput input, std::size_t product, cudaStream_t stream) {
  if (!is_converted(input, product)) return;
  const DeviceView target = group(input, product);
  std::int64_t row = 0;
  for (std::size_t i = 0; i < layout_.weights.size(); ++i) {
    if (layout_.weights[i].input != input || layout_.weights[i].product != product) continue;
    const DeviceView source = weight(i);
    convert(source.data, source.dtype, target.row(row), compute_, source.numel(), stream);
    row += source.rows;
  }
}

void BlockWeights::refresh(cudaStream_t stream) {
  for (int i = 0; i < kNumLinearInputs; ++i) refresh(static_cast<LinearInput>(i), stream);
}

void BlockWeights::load_packed(DeviceMemory& memory, cudaStream_t stream) {
  const auto products = products_by_input(config());
  const Checkpoint& checkpoint = model_.checkpoint();
  for (std::size_t i = 0; i < products.size(); ++i) {
    for (auto& packed : packed_[i]) packed.reset();
    for (std::size_t p = 0; p < products[i].size(); ++p) {
      if (!is_packed(checkpoint, products[i][p])) continue;
      std::vector<PackedTensor> parts;
      for (const LinearTensors& linear : products[i][p]) {
        const std::string name = linear.name + ".weight";
        std::optional<PackedTensor> part = find_packed(checkpoint, name, linear.outputs, linear.inputs);
        if (!part) part = pack_dense(checkpoint, name);
        if (!part || (!is_grid(part->kind()) && part->shape().dtype != compute_)) {
          bad_input(
              "{}: found {}, expected packed or dense {} as the other weights that read its input; use "
              "--device cpu",
              name, part ? name_of(part->shape().dtype) : "a dtype that cannot be packed", name_of(compute_));
        }
        parts.push_back(std::move(*part));
      }
      packed_[i][p].emplace(memory, parts, compute_, stream);
    }
  }
  load_packed_experts(memory, stream);
}

std::int64_t BlockWeights::group_rows(LinearInput input, std::size_t product) const {
  const auto& packed = packed_[at(input)][product];
  return packed ? packed->rows() : group(input, product).rows;
}

std::int64_t BlockWeights::linear_bytes() const {
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < kNumLinearInputs; ++i) {
    for (std::size_t p = 0; p < kMostProducts; ++p) {
      bytes += packed_[i][p] ? static_cast<std::int64_t>(packed_[i][p]->bytes())
                             : group(static_cast<LinearInput>(i), p).numel() * size_of(compute_);
    }
  }
  return bytes;
}

void BlockWeights::linear(Products& products, LinearInput input, DeviceView x, DeviceView y, bool accumulate,
                          DevicePacked::Scratch scratch, cudaStream_t stream, std::size_t product,
                          bool at_rest) const {
  if (const auto& packed = packed_[at(input)][product]) {
    packed->linear(products, x, bias(input, product), y, accumulate, scratch, stream);
  } else if (at_rest) {
    linear_at_rest(products, x, group(input, product), bias(input, product), y, accumulate, stream);
  } else {
    products.linear(x, group(input, product), bias(input, product), y, accumulate);
  }
}

void BlockWeights::product(Products& products, LinearInput input, DeviceView x, DeviceView y,
                           DevicePacked::Scratch scratch, cudaStream_t stream, std::size_t product) const {
  if (const auto& packed = packed_[at(input)][product]) {
    packed->linear(products, x, nullptr, y, false, scratch, stream);
  } else {
    products.linear(x, group(input, product), nullptr, y);
  }
}

void BlockWeights::copy_from(const BlockWeights& other, cudaStream_t stream) {
  layer_ = other.layer_;
  layout_ = other.layout_;
  norms_ = other.norms_;
  experts_.reset();
  if (other.experts_) experts_.emplace(*other.experts_);
  router_offset_ = other.router_offset_;
  router_bias_offset_ = other.router_bias_offset_;
  correction_bias_offset_ = other.correction_bias_offset_;
  shared_gate_offset_ = other.shared_gate_offset_;
  up_bias_offset_ = other.up_bias_offset_;
  down_bias_offset_ = other.down_bias_offset_;
  sinks_offset_ = other.sinks_offset_;
  mixer_offsets_ = other.mixer_offsets_;
  output_scale_ = other.output_scale_;
  xielu_ = other.xielu_;
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

}  // namespace swiftprune::cuda
