#include "swiftprune/cuda/pipeline/held_expert.h"

#include <algorithm>

#include "swiftprune/core/checked_math.h"

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "the weights of an expert";
constexpr std::uint64_t kSlotsBytes = std::uint64_t{256}
                                      << 20;  // for pruned weights that wait for the writer
constexpr std::uint64_t kMostSlots = 16;
constexpr std::int64_t kAlignment = 256;

}  // namespace

HeldExpert::HeldExpert(DeviceMemory& memory, const Model& model, cudaStream_t stream)
    : model_(model), stream_(stream) {
  std::uint64_t most = 0;
  for (const BlockConfig& block : model.config().blocks) {
    if (!block.experts) continue;
    const auto part = static_cast<std::uint64_t>(
        round_up(block.experts->width * model.config().hidden_size * size_of(DType::kF32), kAlignment));
    most = std::max(most, part * parts_of(*block.experts).size());
  }
  expect(most > 0, "HeldExpert: a model with experts");
  const std::uint64_t slots = std::clamp<std::uint64_t>(kSlotsBytes / most, 1, kMostSlots);
  for (std::uint64_t i = 0; i < slots; ++i) slots_.emplace_back(memory, most, kWhat);
  original_ = DeviceBuffer(memory, most, kWhat);
}

void HeldExpert::take(const BlockWeights& block, std::int64_t expert) {
  const ExpertsConfig& experts = *block.config().experts;
  expert_ = expert;
  next_ = wraps() ? 1 : next_ + 1;
  parts_.clear();
  dense_.clear();
  offsets_.clear();
  std::uint64_t end = 0;
  for (const ExpertPart part : parts_of(experts)) {
    const LinearTensors linear = expert_linear(experts, model_.config().hidden_size, expert, part);
    const DType dtype = block.expert_tensors().dtype(expert, part);
    parts_.push_back({linear.name + ".weight", dtype, linear.input, linear.outputs, linear.inputs,
                      block.expert_offset(expert, part)});
    offsets_.push_back(end);
    std::byte* data = block.data() + parts_.back().offset;
    if (dtype != block.compute()) {
      data = original_.data() + end;
      std::vector<std::byte> own;
      copy_to_device(block.expert_tensors().bytes(expert, part, own), data, stream_);
    }
    dense_.push_back(view_of(data, dtype, linear.outputs, linear.inputs));
    end += static_cast<std::uint64_t>(round_up(static_cast<std::int64_t>(parts_.back().bytes()), kAlignment));
  }
}

DeviceView HeldExpert::dense(std::size_t part) const { return dense_[part]; }

DeviceView HeldExpert::pruned(std::size_t part) const {
  const BlockLayout::Weight& weight = parts_[part];
  return view_of(slots_[next_ - 1].data() + offsets_[part], weight.dtype, weight.rows, weight.cols);
}

void HeldExpert::put(std::size_t part, BlockWeights& block) const {
  const DeviceView from = pruned(part);
  convert(from.data, from.dtype, block.data() + parts_[part].offset, block.compute(), from.numel(), stream_);
}

}  // namespace swiftprune::cuda
