#include "swiftprune/cuda/pipeline/input_statistics.h"

#include <algorithm>
#include <utility>

#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/model/observed_linear.h"

namespace swiftprune::cuda {

InputStatistics::InputStatistics(DeviceMemory& memory, const PruneRun& run, const TokenWindows& windows,
                                 DType compute, std::int64_t widest, cudaStream_t stream,
                                 StatisticsRanks* ranks)
    : memory_(memory), aligned_(run.aligned) {
  make_room_for_moments(run);
  for (int i = 0; i < kNumLinearInputs; ++i) all_.emplace_back(memory, widest, stream, ranks);
  if (run.model.config().has_recurrent_blocks()) part_.emplace(memory, widest, stream);
  if (ranks != nullptr) make_room_for_held(run, windows, compute, widest);
}

// With two streams one input is in hand at a time and all share the memory; else all four collect together.
void InputStatistics::make_room_for_moments(const PruneRun& run) {
  const std::int64_t hidden = run.model.config().hidden_size;
  std::array<std::int64_t, kNumLinearInputs> sizes{};
  bool alignment = false;
  std::int64_t part = 0;  // the most inputs of a linear that reads only some
  for (const PlanEntry& entry : run.plan.entries) {
    const StatNeeds needs = stat_needs(entry);
    alignment |= needs.alignment;
    if (!needs.gram) continue;
    auto& size = sizes[static_cast<std::size_t>(entry.input)];
    const BlockConfig& block = run.model.config().blocks[static_cast<std::size_t>(entry.layer)];
    const std::int64_t width = entry.expert >= 0 ? entry.cols : observed_width(block, entry.input, hidden);
    size = std::max(size, width);
    if (width != entry.cols) part = std::max(part, entry.cols);
  }
  const std::int64_t largest = *std::max_element(sizes.begin(), sizes.end());
  if (largest == 0) return;
  const auto matrix = [&](std::int64_t rows, std::int64_t cols, std::string_view what) {
    return DeviceBuffer(memory_, static_cast<std::uint64_t>(rows * cols) * sizeof(float), what);
  };
  for (std::size_t i = 0; i < (aligned_ ? 1 : sizes.size()); ++i) {
    const std::int64_t n = aligned_ ? largest : sizes[i];
    moments_[i].gram = matrix(n, n, "Gram matrices");
  }
  if (alignment) moments_[0].cross = matrix(largest, largest, "cross moments");
  if (aligned_) moments_[0].residual = matrix(hidden, largest, "residual moments");
  if (part == 0) return;
  part_moments_.gram = matrix(part, part, "Gram matrices");
  if (alignment) part_moments_.cross = matrix(part, part, "cross moments");
  if (aligned_) part_moments_.residual = matrix(hidden, part, "residual moments");
}

// Inputs of this rank's windows that wait for the sums of those before (Moments).
void InputStatistics::make_room_for_held(const PruneRun& run, const TokenWindows& windows, DType compute,
                                         std::int64_t widest) {
  const std::int64_t rows = most_held_rows(windows, run.model.config().has_experts());
  const auto matrix = [&](std::int64_t cols) { return room_for_held(memory_, rows, cols, compute); };
  if (aligned_) {
    moments_[0].held_x = matrix(widest);
    moments_[0].held_dense = matrix(widest);
    moments_[0].held_error = matrix(run.model.config().hidden_size);
    return;
  }
  std::array<std::int64_t, kNumLinearInputs> most{};  // of what a block's linears and its experts' read
  for (const PlanEntry& entry : run.plan.entries) {
    std::int64_t& cols = most[static_cast<std::size_t>(entry.input)];
    if (stat_needs(entry).any()) cols = std::max(cols, entry.cols);
  }
  for (std::size_t i = 0; i < most.size(); ++i) {
    if (most[i] > 0) moments_[i].held_x = matrix(most[i]);
  }
}

DeviceStats* InputStatistics::start(LinearInput input, std::int64_t inputs, const StatNeeds& needs,
                                    std::int64_t residual_size, float residual_factor) {
  const auto i = static_cast<std::size_t>(input);
  all_[i].start(inputs, needs, moments_[aligned_ ? 0 : i], residual_size, residual_factor);
  return stats_[i] = &all_[i];
}

void InputStatistics::take(LinearInput input) {
  in_hand_ = of(input);
  part_first_ = -1;
}

void InputStatistics::drop(LinearInput input) {
  stats_[static_cast<std::size_t>(input)] = in_hand_ = nullptr;
}

InputStatistics::Read InputStatistics::read_by(const LinearTensors& linear) {
  if (in_hand_ == nullptr || linear.inputs == in_hand_->inputs()) return {in_hand_};
  const bool is_new = std::exchange(part_first_, linear.first_input) != linear.first_input;
  if (is_new) part_->take_part(*in_hand_, linear.first_input, linear.inputs, part_moments_);
  return {&*part_, is_new};
}

float* InputStatistics::cross() const {
  return (part_first_ < 0 ? moments_[0].cross : part_moments_.cross).as<float>();
}

}  // namespace swiftprune::cuda
