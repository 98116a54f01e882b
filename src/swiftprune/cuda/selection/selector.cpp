#include "swiftprune/cuda/selection/selector.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"
#include "swiftprune/scoring/obs.h"
#include "swiftprune/scoring/random.h"
#include "swiftprune/scoring/ria.h"
#include "swiftprune/scoring/scorer.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "scores";

// What this file computes in a way of its own (cuda/capabilities.cpp lists the same).
bool is_random(const ScoreSpec& score) { return &score.kind() == &kRandomScore; }
bool is_ria(const ScoreSpec& score) { return &score.kind() == &kRiaScore; }
bool is_obs(const ScoreSpec& score) { return &score.kind() == &kObsScore; }

std::uint64_t floats(std::int64_t n) { return static_cast<std::uint64_t>(n) * sizeof(float); }

bool reads_mask(const PlanEntry& entry) { return !entry.refine.is_none() && entry.refine.facts().uses_mask; }

void upload_counts(const std::vector<std::int64_t>& counts, const DeviceBuffer& buffer, cudaStream_t stream) {
  const std::vector<std::int32_t> narrow(counts.begin(), counts.end());
  copy_to_device(narrow, buffer.data(), stream);
}

}  // namespace

DeviceSelector::DeviceSelector(DeviceMemory& memory, Products& products, const Plan& plan,
                               std::size_t linears, const LinearSizes& sizes, cudaStream_t stream)
    : products_(products), stream_(stream), matrix_(memory, stream), cpu_(make_cpu_backend()) {
  for (std::size_t i = 0; i < linears; ++i) {
    factors_.emplace_back(memory, floats(2 * sizes.cols + sizes.rows), kWhat);
    counts_.emplace_back(memory, static_cast<std::uint64_t>(sizes.rows) * sizeof(std::int32_t), kWhat);
  }
  sums_ = DeviceBuffer(memory, static_cast<std::uint64_t>(sizes.cols + sizes.rows) * sizeof(double), kWhat);
  // Sums run over weights and over the inverse Gram matrix.
  const std::int64_t most_rows = std::max(sizes.rows, sizes.cols);
  abs_scratch_ =
      DeviceBuffer(memory, static_cast<std::uint64_t>(statistics_scratch(most_rows, sizes.cols)), kWhat);
  bool masks = false;
  bool keys = false;
  std::int64_t obs_inputs = 0;
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune || !entry.refine.facts().uses_mask) continue;
    masks |= !is_independent(entry) || reads_mask(entry);
    keys |= is_random(entry.score) || reads_mask(entry);
    if (is_obs(entry.score)) obs_inputs = std::max(obs_inputs, entry.cols);
  }
  if (masks) mask_ = DeviceBuffer(memory, static_cast<std::uint64_t>(sizes.numel), "masks");
  if (keys) keys_ = DeviceBuffer(memory, floats(sizes.numel), kWhat);
  if (obs_inputs > 0) factor_.emplace(memory, obs_inputs, stream);
  unused_counters_ = DeviceBuffer(memory, sizeof(PruneCounters), kWhat);
  check(cudaMemsetAsync(unused_counters_.data(), 0, unused_counters_.bytes(), stream));
}

bool DeviceSelector::is_independent(const PlanEntry& entry) {
  const bool row_local =
      entry.pattern.kind == Pattern::Kind::kRow || entry.pattern.kind == Pattern::Kind::kNofM;
  return row_local && !is_random(entry.score) && !reads_mask(entry);
}

DeviceSelector::Scored DeviceSelector::score(DeviceView weight, std::size_t linear, const PlanEntry& entry,
                                             const DeviceStats* stats, cudaStream_t lane) {
  Scored scored;
  PruneRowsArgs& args = scored.args;
  args.in = weight.data;
  args.dtype = weight.dtype;
  args.rows = weight.rows;
  args.cols = weight.cols;
  if (is_random(entry.score)) {
    const std::uint64_t seed = random_seed(entry.score.parameter());
    random_scores(random_stream(seed, entry.tensor), weight.numel(), keys_.as<float>(), lane);
    args.in = keys_.data();
    args.dtype = DType::kF32;
    return scored;
  }
  const Scores scores = scores_of(weight, entry, stats);
  scored.power = scores.power;
  auto* place = factors_[linear].as<float>();
  const auto put = [&](const std::vector<float>& values) -> const float* {
    if (values.empty()) return nullptr;
    const float* start = place;
    copy_to_device(values, place, lane);
    place += values.size();
    return start;
  };
  args.column = put(scores.column);
  args.slope = put(scores.slope);
  args.row = put(scores.row);
  return scored;
}

// Scores of the statistics alone are computed on the host.
Scores DeviceSelector::scores_of(DeviceView weight, const PlanEntry& entry, const DeviceStats* stats) {
  const LayerStats view = stats != nullptr ? stats->view() : LayerStats{};
  if (is_ria(entry.score)) return ria_scores(weight, entry, view);
  if (is_obs(entry.score)) return obs_scores(*stats, entry.tensor);
  return make_scorer(entry.score)->factors(weight.cols, view, *cpu_, entry.tensor);
}

// The diagonal of (G + damping)⁻¹ = WᵀW: sums of squares over the columns of W.
Scores DeviceSelector::obs_scores(const DeviceStats& stats, std::string_view tensor) {
  if (obs_columns_.empty()) {
    const std::int64_t n = stats.inputs();
    factor_->compute(products_, stats, kObsDamping, false, false, tensor);
    check(cudaMemsetAsync(sums_.data(), 0, static_cast<std::size_t>(n) * sizeof(double), stream_));
    StatisticsArgs args;
    args.x = factor_->data();
    args.dtype = DType::kF32;
    args.rows = args.cols = n;
    args.energy = sums_.as<double>();
    args.scratch = abs_scratch_.data();
    add_statistics(args, stream_);
    std::vector<double> diagonal(static_cast<std::size_t>(n));
    check(cudaMemcpyAsync(diagonal.data(), sums_.data(), diagonal.size() * sizeof(double),
                          cudaMemcpyDeviceToHost, stream_));
    check(cudaStreamSynchronize(stream_));
    for (const double value : diagonal) obs_columns_.push_back(static_cast<float>(1.0 / std::sqrt(value)));
  }
  Scores scores;
  scores.power = 2;
  scores.column = obs_columns_;
  return scores;
}

Scores DeviceSelector::ria_scores(DeviceView weight, const PlanEntry& entry, const LayerStats& stats) {
  auto* column_sums = sums_.as<double>();
  auto* row_sums = column_sums + weight.cols;
  abs_sums(weight.data, weight.dtype, weight.rows, weight.cols, row_sums, column_sums, abs_scratch_.data(),
           stream_);
  std::vector<double> host(static_cast<std::size_t>(weight.cols + weight.rows));
  check(cudaMemcpyAsync(host.data(), column_sums, host.size() * sizeof(double), cudaMemcpyDeviceToHost,
                        stream_));
  check(cudaStreamSynchronize(stream_));
  const std::span<const double> all(host);
  const auto cols = static_cast<std::size_t>(weight.cols);
  return swiftprune::ria_scores(entry.score.parameter(), all.first(cols), all.subspan(cols), stats);
}

void DeviceSelector::select_rows(PruneRowsArgs args, std::size_t linear, const PruneTarget& target,
                                 cudaStream_t lane) {
  if (target.pattern.kind == Pattern::Kind::kNofM) {
    prune_groups(args, static_cast<int>(target.pattern.n), static_cast<int>(target.pattern.m), lane);
    return;
  }
  if (target.pattern.kind == Pattern::Kind::kLayer) {
    prune_rows(args, 0, matrix_.row_counts(args, total_prune_count(target, args.rows, args.cols)), lane);
    return;
  }
  const std::vector<std::int64_t> counts = row_prune_counts(target, args.rows, args.cols);
  const bool uniform =
      std::all_of(counts.begin(), counts.end(), [&](std::int64_t count) { return count == counts.front(); });
  if (!uniform) upload_counts(counts, counts_[linear], lane);
  prune_rows(args, counts.front(), uniform ? nullptr : counts_[linear].as<std::int32_t>(), lane);
}

void DeviceSelector::select(const Scored& scored, DeviceView weight, std::size_t linear,
                            const PruneTarget& target, DeviceView out, std::uint8_t* mask,
                            PruneCounters* counters, cudaStream_t lane) {
  PruneRowsArgs args = scored.args;
  args.mask = mask;
  args.counters = counters;
  args.out = out.data;
  const bool own_keys = args.in != weight.data;
  const bool tiles = target.pattern.kind == Pattern::Kind::kBlock;
  if (!own_keys && !tiles) return select_rows(args, linear, target, lane);
  // Through a mask: what is compared are not the weights themselves.
  args.mask = mask != nullptr ? mask : mask_.as<std::uint8_t>();
  if (tiles) {
    matrix_.tiles(args, target, scored.power, args.mask);
  } else {
    args.out = keys_.data();
    args.counters = unused_counters_.as<PruneCounters>();
    select_rows(args, linear, target, lane);
  }
  apply_mask(weight.data, args.mask, weight.numel(), out.data, weight.dtype, counters, lane);
}

void DeviceSelector::select_mask(const Scored& scored, DeviceView weight, std::size_t linear,
                                 const PruneTarget& target, PruneCounters* counters) {
  const DeviceView unused = view_of(keys_.data(), weight.dtype, weight.rows, weight.cols);
  select(scored, weight, linear, target, unused, mask(), counters, stream_);
  check(cudaMemsetAsync(counters->zeros, 0, sizeof(counters->zeros), stream_));
}

std::vector<std::int64_t> DeviceSelector::threshold_counts(DeviceView weight, std::span<const double> energy,
                                                           std::span<const float> effects,
                                                           std::int64_t total) {
  std::vector<float> values(static_cast<std::size_t>(weight.cols), 0.0f);  // column, slope, row
  for (const double e : energy) values.push_back(static_cast<float>(std::sqrt(e)));
  values.insert(values.end(), effects.begin(), effects.end());
  auto* place = factors_.front().as<float>();
  copy_to_device(values, place, stream_);
  PruneRowsArgs args;
  args.in = weight.data;
  args.dtype = weight.dtype;
  args.rows = weight.rows;
  args.cols = weight.cols;
  args.column = place;
  args.slope = place + weight.cols;
  args.row = place + 2 * weight.cols;
  args.counters = unused_counters_.as<PruneCounters>();
  return matrix_.host_row_counts(args, total);
}

}  // namespace swiftprune::cuda
