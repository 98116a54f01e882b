#include "swiftprune/model/expert_tensors.h"

#include <cstring>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kMxBlock = 32;  // numbers that share a scale
constexpr std::int64_t kMxBytes = kMxBlock / 2;
constexpr std::int64_t kMxBias = 127;

// The 4-bit floats of MXFP4 (E2M1), as OCP's specification of microscaling formats lists them.
constexpr float kE2M1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                             -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

constexpr const char* kGateUp = "gate_up_proj";
constexpr const char* kDown = "down_proj";

// Gathers [rows, cols] elements of `Element` from a mapped tensor, whose bytes need not be aligned.
template <class Element>
void gather(std::span<const std::byte> bytes, const ExpertTensors::Place& place, std::int64_t rows,
            std::int64_t cols, Element* target) {
  const std::byte* base = bytes.data();
  const auto size = static_cast<std::int64_t>(sizeof(Element));
  parallel_for(rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      const std::byte* row = base + (place.first + r * place.row) * size;
      Element* out = target + r * cols;
      if (place.column == 1) {
        std::memcpy(out, row, static_cast<std::size_t>(cols * size));
        continue;
      }
      for (std::int64_t c = 0; c < cols; ++c)
        std::memcpy(out + c, row + c * place.column * size, sizeof(Element));
    }
  });
}

}  // namespace

LinearTensors expert_linear(const ExpertsConfig& experts, std::int64_t hidden_size, std::int64_t expert,
                            ExpertPart part) {
  const bool down = part == ExpertPart::kDown;
  return {fmt::format("{}{}.{}", experts.prefix, expert, experts.parts[at(static_cast<std::int64_t>(part))]),
          down ? hidden_size : experts.width, down ? experts.width : hidden_size, experts.bias,
          down ? LinearInput::kMlpOutput : LinearInput::kMlp};
}

std::string_view name_of(ExpertForm form) {
  switch (form) {
    case ExpertForm::kSeparate:
      return "separate";
    case ExpertForm::kFused:
      return "fused";
    case ExpertForm::kFusedByInput:
      return "fused, transposed";
    case ExpertForm::kMxfp4:
      return "fused, mxfp4";
  }
  return "?";
}

ExpertTensors::ExpertTensors(const Checkpoint& checkpoint, const ExpertsConfig& experts,
                             std::int64_t hidden_size)
    : checkpoint_(checkpoint), experts_(experts), hidden_(hidden_size) {
  fused_biases_ = experts.bias && checkpoint.find(fused_name(ExpertPart::kDown) + "_bias") != nullptr;
  if (!experts.gated) {
    check_separate();
  } else if (checkpoint.find(fused_name(ExpertPart::kGate) + "_blocks") != nullptr) {
    form_ = ExpertForm::kMxfp4;
    check_mxfp4();
  } else if (checkpoint.find(fused_name(ExpertPart::kGate)) != nullptr) {
    form_ = experts.fused_by_input ? ExpertForm::kFusedByInput : ExpertForm::kFused;
    check_fused();
  } else {
    check_separate();
  }
  if (form_ != ExpertForm::kSeparate) fused_biases_ = experts.bias;
  if (fused_biases_) check_fused_biases();
}

std::int64_t ExpertTensors::outputs(ExpertPart part) const {
  return part == ExpertPart::kDown ? hidden_ : experts_.width;
}

std::int64_t ExpertTensors::inputs(ExpertPart part) const {
  return part == ExpertPart::kDown ? experts_.width : hidden_;
}

std::string ExpertTensors::linear_name(std::int64_t expert, ExpertPart part) const {
  return expert_linear(experts_, hidden_, expert, part).name;
}

std::string ExpertTensors::fused_name(ExpertPart part) const {
  const bool down = part == ExpertPart::kDown;
  const std::string& name = experts_.fused[down ? 1 : 0];
  return name.empty() ? experts_.prefix + (down ? kDown : kGateUp) : name;
}

std::string ExpertTensors::bias_name(std::int64_t expert, ExpertPart part) const {
  if (!experts_.bias) return "";
  return fused_biases_ ? fused_name(part) + "_bias" : linear_name(expert, part) + ".bias";
}

void ExpertTensors::check(const std::string& name, const std::vector<std::int64_t>& shape, bool numbers) {
  const TensorInfo& tensor = checkpoint_.at(name);
  const std::string file = (checkpoint_.folder() / tensor.file).string();
  if (tensor.shape != shape) {
    bad_input("{}: tensor {}: found shape [{}], expected [{}] from {}, {} and hidden_size of config.json",
              file, name, fmt::join(tensor.shape, ", "), fmt::join(shape, ", "), experts_.count_field,
              experts_.width_field);
  }
  if (numbers ? !is_weight_dtype(tensor.dtype) : tensor.dtype != DType::kU8) {
    bad_input("{}: tensor {}: found dtype {}, expected {}", file, name, name_of(tensor.dtype),
              numbers ? "F32, F16 or BF16" : "U8");
  }
  names_.push_back(name);
}

void ExpertTensors::check_fused_biases() {
  for (const auto& [part, rows] :
       {std::pair{ExpertPart::kGate, 2 * experts_.width}, {ExpertPart::kDown, hidden_}})
    check(bias_name(0, part), {experts_.count, rows}, true);
}

void ExpertTensors::check_separate() {
  for (std::int64_t e = 0; e < experts_.count; ++e) {
    for (const ExpertPart part : parts_of(experts_)) {
      const std::string name = linear_name(e, part) + ".weight";
      weight_names_.push_back(name);
      if (checkpoint_.find(name + kPackedSuffix) != nullptr) {
        names_.push_back(name + kPackedSuffix);  // its shape is checked when it is loaded
      } else {
        check(name, {outputs(part), inputs(part)}, true);
      }
      if (experts_.bias && !fused_biases_) check(bias_name(e, part), {outputs(part)}, true);
    }
  }
  const std::string next = linear_name(experts_.count, parts_of(experts_).front()) + ".weight";
  if (const TensorInfo* extra = checkpoint_.find(next)) {
    bad_input("{}: tensor {}: found an expert more than the {} that {} of config.json says",
              (checkpoint_.folder() / extra->file).string(), next, experts_.count, experts_.count_field);
  }
}

void ExpertTensors::check_fused() {
  const std::int64_t both = 2 * experts_.width;
  const bool by_input = form_ == ExpertForm::kFusedByInput;
  check(fused_name(ExpertPart::kGate), {experts_.count, by_input ? hidden_ : both, by_input ? both : hidden_},
        true);
  check(fused_name(ExpertPart::kDown),
        {experts_.count, by_input ? experts_.width : hidden_, by_input ? hidden_ : experts_.width}, true);
  weight_names_ = names_;
}

void ExpertTensors::check_mxfp4() {
  for (const ExpertPart part : {ExpertPart::kGate, ExpertPart::kDown}) {
    const std::int64_t rows = part == ExpertPart::kGate ? 2 * experts_.width : hidden_;
    const std::int64_t blocks = inputs(part) / kMxBlock;
    if (inputs(part) % kMxBlock != 0) {
      bad_input("{}: tensor {}_blocks: found {} inputs, expected a multiple of {} for MXFP4",
                checkpoint_.folder().string(), fused_name(part), inputs(part), kMxBlock);
    }
    check(fused_name(part) + "_blocks", {experts_.count, rows, blocks, kMxBytes}, false);
    check(fused_name(part) + "_scales", {experts_.count, rows, blocks}, false);
  }
  weight_names_ = names_;
}

ExpertTensors::Place ExpertTensors::place(std::int64_t expert, ExpertPart part, std::int64_t width) const {
  expect(form_ != ExpertForm::kMxfp4, "place: a tensor of numbers");
  const bool up = part == ExpertPart::kUp;
  if (form_ == ExpertForm::kSeparate) {
    const std::int64_t inputs = part == ExpertPart::kDown ? width : hidden_;
    return {linear_name(expert, part) + ".weight", 0, inputs, 1};
  }
  if (form_ == ExpertForm::kFused) {
    if (part == ExpertPart::kDown) return {fused_name(part), expert * hidden_ * width, width, 1};
    return {fused_name(part), (expert * 2 * width + (up ? width : 0)) * hidden_, hidden_, 1};
  }
  if (part == ExpertPart::kDown) return {fused_name(part), expert * width * hidden_, 1, hidden_};
  return {fused_name(part), expert * hidden_ * 2 * width + (up ? 1 : 0), 2, 2 * width};
}

DType ExpertTensors::dtype(std::int64_t expert, ExpertPart part) const {
  return form_ == ExpertForm::kMxfp4 ? DType::kBF16 : checkpoint_.at(place(expert, part).tensor).dtype;
}

std::span<const std::byte> ExpertTensors::bytes(std::int64_t expert, ExpertPart part,
                                                std::vector<std::byte>& own) const {
  const std::int64_t rows = outputs(part), cols = inputs(part);
  const DType type = dtype(expert, part);
  const std::size_t size = at(rows * cols * size_of(type));
  if (form_ == ExpertForm::kMxfp4) {
    own.resize(size);
    std::memcpy(own.data(), mxfp4_bits(expert, part).data(), size);
    return own;
  }
  Place from = place(expert, part);
  const TensorInfo& tensor = checkpoint_.at(from.tensor);
  const std::int64_t extent = tensor.shape.front();
  const bool separate = form_ == ExpertForm::kSeparate;
  const auto mapped = checkpoint_.bytes_of_part(tensor, separate ? 0 : expert, separate ? extent : 1, own);
  if (!separate) from.first -= expert * (tensor.numel() / extent);
  if (from.column == 1 && from.row == cols) return mapped.subspan(at(from.first * size_of(type)), size);
  std::vector<std::byte> result(size);
  if (type == DType::kF32) {
    gather(mapped, from, rows, cols, reinterpret_cast<std::uint32_t*>(result.data()));
  } else {
    gather(mapped, from, rows, cols, reinterpret_cast<std::uint16_t*>(result.data()));
  }
  return own = std::move(result);
}

std::vector<std::uint16_t> ExpertTensors::mxfp4_bits(std::int64_t expert, ExpertPart part) const {
  std::vector<std::byte> read_blocks, read_scales;
  const auto blocks =
      checkpoint_.bytes_of_part(checkpoint_.at(fused_name(part) + "_blocks"), expert, 1, read_blocks);
  const auto scales =
      checkpoint_.bytes_of_part(checkpoint_.at(fused_name(part) + "_scales"), expert, 1, read_scales);
  const bool down = part == ExpertPart::kDown;
  const std::int64_t rows = outputs(part), cols = inputs(part), blocks_a_row = cols / kMxBlock;
  const std::int64_t step = down ? 1 : 2, begin = part == ExpertPart::kUp ? 1 : 0;
  std::vector<std::uint16_t> result(static_cast<std::size_t>(rows * cols));
  parallel_for(rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      std::uint16_t* out = result.data() + r * cols;
      for (std::int64_t b = 0; b < blocks_a_row; ++b) {
        const std::int64_t block = (begin + r * step) * blocks_a_row + b;
        const auto exponent = static_cast<int>(scales[static_cast<std::size_t>(block)]) - int{kMxBias};
        for (std::int64_t i = 0; i < kMxBytes; ++i) {
          const auto pair = static_cast<unsigned>(blocks[static_cast<std::size_t>(block * kMxBytes + i)]);
          *out++ = f32_to_bf16(std::ldexp(kE2M1[pair & 15u], exponent));
          *out++ = f32_to_bf16(std::ldexp(kE2M1[pair >> 4], exponent));
        }
      }
    }
  });
  return result;
}

std::vector<float> ExpertTensors::load_bias(std::int64_t expert, ExpertPart part) const {
  if (!experts_.bias) return {};
  const std::string name = bias_name(expert, part);
  const std::int64_t rows = outputs(part);
  if (!fused_biases_) return checkpoint_.load_vector(name, rows);
  const bool down = part == ExpertPart::kDown;
  Matrix whole(1, down ? rows : 2 * rows);
  const TensorInfo& tensor = checkpoint_.at(name);
  checkpoint_.load_rows(tensor, expert, whole.view());
  std::vector<float> bias;
  const bool in_turn = experts_.fused_by_input;
  const std::int64_t first = part == ExpertPart::kUp ? (in_turn ? 1 : rows) : 0;
  for (std::int64_t o = 0; o < rows; ++o) bias.push_back(whole.at(0, first + o * (in_turn && !down ? 2 : 1)));
  return bias;
}

BlockLinear ExpertTensors::load(std::int64_t expert, ExpertPart part, WeightUse use) const {
  expect(expert >= 0 && expert < experts_.count, "load: an expert of the block");
  const std::int64_t rows = outputs(part), cols = inputs(part);
  BlockLinear linear;
  linear.tensors = expert_linear(experts_, hidden_, expert, part);
  linear.bias = load_bias(expert, part);
  if (form_ == ExpertForm::kSeparate) {
    linear.compact = find_packed(checkpoint_, linear.tensors.name + ".weight", rows, cols);
    if (linear.compact) {
      linear.dtype = linear.compact->weight().shape().dtype;
      return linear;
    }
  }
  linear.dtype = dtype(expert, part);
  std::vector<std::byte> own;
  const std::span<const std::byte> values = bytes(expert, part, own);
  if (linear.dtype != DType::kF32 && use == WeightUse::kCompact) {
    std::vector<std::uint16_t> bits(at(rows * cols));
    std::memcpy(bits.data(), values.data(), values.size());
    linear.compact = Linear(pack({bits, rows, cols, linear.dtype}, {PackedKind::kDense16}));
    return linear;
  }
  linear.weight = Matrix(rows, cols);
  const std::int64_t row_bytes = cols * size_of(linear.dtype);
  parallel_for(rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    convert_to_f32(values.subspan(at(first * row_bytes), at((last - first) * row_bytes)), linear.dtype,
                   linear.weight.values().subspan(at(first * cols), at((last - first) * cols)));
  });
  return linear;
}

std::vector<std::string> ExpertTensors::names_of(std::int64_t expert) const {
  expect(form_ == ExpertForm::kSeparate, "names_of: experts with tensors of their own");
  const std::size_t each = parts_of(experts_).size() * (experts_.bias && !fused_biases_ ? 2 : 1);
  const auto begin = names_.begin() + static_cast<std::ptrdiff_t>(each * at(expert));
  return {begin, begin + static_cast<std::ptrdiff_t>(each)};
}

void ExpertTensors::release(std::int64_t expert) const {
  if (form_ != ExpertForm::kSeparate) {
    if (expert + 1 < experts_.count) return;
    for (const std::string& name : names_) checkpoint_.release(checkpoint_.at(name));
    return;
  }
  for (const ExpertPart part : parts_of(experts_)) {
    const std::string name = linear_name(expert, part) + ".weight";
    for (const std::string& stored : {name, name + kPackedSuffix}) {
      if (const TensorInfo* tensor = checkpoint_.find(stored)) checkpoint_.release(*tensor);
    }
  }
}

}  // namespace swiftprune
