#include "swiftprune/cuda/refinement/grid_solver.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/refinement/inverse.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"

namespace swiftprune::cuda {
namespace {

constexpr int kRounds = 4;  // of descent and scales
constexpr int kSweeps = 6;  // over the weights, in each
constexpr int kRoundsOfExchanges = 2;
constexpr int kExchanges = 64;      // of a row or N:M group, in each
constexpr int kRoundsOfScales = 2;  // the first ones: later codes hardly move
constexpr int kScaleSteps = 4;

constexpr std::string_view kInput = "weights on a grid: an input";
constexpr std::string_view kLinear = "weights on a grid: a linear";

std::uint64_t floats(std::int64_t n) { return static_cast<std::uint64_t>(n) * sizeof(float); }

}  // namespace

DeviceGridSolver::DeviceGridSolver(DeviceMemory& memory, Products& products, const Room& room, bool tf32,
                                   cudaStream_t stream)
    : products_(products), tf32_(tf32), stream_(stream) {
  const std::int64_t square = room.inputs * room.inputs;
  h_ = DeviceBuffer(memory, floats(square), kInput);
  factor_ = DeviceBuffer(memory, floats(square), kInput);
  scratch_ = DeviceBuffer(memory, floats(inverse_scratch(room.inputs)), kInput);
  bad_ = DeviceBuffer(memory, sizeof(int), kInput);
  for (DeviceBuffer* buffer : {&order_, &place_, &diagonal_, &energies_})
    *buffer = DeviceBuffer(memory, floats(room.inputs), kInput);
  w_ = DeviceBuffer(memory, floats(room.numel), kLinear);
  errors_ = DeviceBuffer(memory, floats(room.rows * kGridBlock), kLinear);
  kept_ = DeviceBuffer(memory, static_cast<std::uint64_t>(room.numel), kLinear);
  scales_ = DeviceBuffer(memory, floats(room.groups), kLinear);
  zeros_ = DeviceBuffer(memory, floats(room.groups), kLinear);
  codes_ = DeviceBuffer(memory, static_cast<std::uint64_t>(room.numel), kLinear);
  scale_bits_ = DeviceBuffer(memory, static_cast<std::uint64_t>(2 * room.groups), kLinear);
  zero_codes_ = DeviceBuffer(memory, static_cast<std::uint64_t>(room.groups), kLinear);
  if (!room.descends) return;
  for (DeviceBuffer* buffer : {&gradient_, &fit_gradient_, &v_, &vh_})
    *buffer = DeviceBuffer(memory, floats(room.numel), kLinear);
  fit_scales_ = DeviceBuffer(memory, floats(room.groups), kLinear);
  fit_direction_ = DeviceBuffer(memory, floats(room.groups), kLinear);
  fit_slope_ = DeviceBuffer(memory, static_cast<std::uint64_t>(room.rows) * sizeof(double), kLinear);
}

void DeviceGridSolver::prepare(const float* gram, std::int64_t inputs, const float* norm, double damping,
                               double dead, ColumnOrder order, std::string_view tensor) {
  inputs_ = inputs;
  std::vector<float> diagonal(static_cast<std::size_t>(inputs));
  check(cudaMemcpy2DAsync(diagonal.data(), sizeof(float), gram, floats(inputs + 1), sizeof(float),
                          diagonal.size(), cudaMemcpyDeviceToHost, stream_));
  check(cudaStreamSynchronize(stream_));
  std::vector<std::int32_t> places(diagonal.size()), of(diagonal.size());
  std::iota(of.begin(), of.end(), 0);
  const auto energy = [&](std::int32_t j) {
    const float own = diagonal[static_cast<std::size_t>(j)];
    return own == 0.0f ? static_cast<float>(dead) : own;
  };
  if (order == ColumnOrder::kByDiagonal) {
    std::stable_sort(of.begin(), of.end(),
                     [&](std::int32_t a, std::int32_t b) { return energy(a) > energy(b); });
  }
  for (std::size_t i = 0; i < of.size(); ++i)
    places[static_cast<std::size_t>(of[i])] = static_cast<std::int32_t>(i);
  const auto upload = [&](const std::vector<std::int32_t>& from, const DeviceBuffer& to) {
    copy_to_device(from, to.data(), stream_);
  };
  upload(of, order_);
  upload(places, place_);
  const auto* columns = order_.as<std::int32_t>();
  ordered_gram(gram, columns, inputs, h_.as<float>(), stream_);
  if (dead > 0.0) damp_diagonal(h_.as<float>(), inputs, 0.0f, static_cast<float>(dead), stream_);
  damping_ = damping;
  for (raised_ = 0; raised_ <= kMaxDampingRaises; ++raised_, damping_ *= 10.0) {
    ordered_normalised(h_.as<float>(), norm, columns, inputs, static_cast<float>(damping_),
                       factor_.as<float>(), stream_);
    // (J A J)⁻¹ = WᵀW with J the reversal gives A⁻¹ = UᵀU with U = J W J upper triangular.
    reverse(factor_.as<float>(), inputs, stream_);
    if (!try_inverse_factor(products_, square(factor_), scratch_.as<float>(), bad_.as<int>(), false, stream_))
      continue;
    reverse(factor_.as<float>(), inputs, stream_);
    ordered_rescale(factor_.as<float>(), h_.as<float>(), norm, columns, inputs, static_cast<float>(damping_),
                    stream_);
    ordered_diagonal(h_.as<float>(), columns, inputs, energies_.as<float>(), stream_);
    check(cudaMemcpy2DAsync(diagonal_.data(), sizeof(float), h_.data(), floats(inputs + 1), sizeof(float),
                            static_cast<std::size_t>(inputs), cudaMemcpyDeviceToDevice, stream_));
    return;
  }
  bad_input(
      "{}: found a Gram matrix that no damping up to {:g} of its mean diagonal makes positive definite; "
      "check the calibration data",
      tensor, damping_ / 10.0);
}

GridRows DeviceGridSolver::rows_of(DeviceView values, const QuantGrid& grid) const {
  expect(values.dtype == DType::kF32 && values.stride == values.cols, "grid: contiguous F32 values");
  GridRows rows;
  rows.rows = values.rows;
  rows.cols = values.cols;
  rows.groups = grid.groups_of(values.cols);
  rows.width = values.cols / rows.groups;
  rows.bits = grid.bits;
  rows.asymmetric = grid.asymmetric;
  rows.scales = scales_.as<float>();
  rows.zeros = zeros_.as<float>();
  rows.order = order_.as<std::int32_t>();
  rows.place = place_.as<std::int32_t>();
  const auto fits = [](const DeviceBuffer& buffer, std::int64_t n) { return buffer.bytes() >= floats(n); };
  expect(fits(w_, values.numel()) && fits(scales_, rows.rows * rows.groups), "grid: room for the rows");
  return rows;
}

// w_ in the order, on the grid afterwards.
void DeviceGridSolver::round_in_order(const GridRows& grid, const std::uint8_t* kept, bool range_on_the_way) {
  const DeviceView w = like(w_, grid);
  const DeviceView factor = square(factor_);
  for (std::int64_t first = 0; first < grid.cols; first += kGridBlock) {
    check_interrupt();
    GridBlock block;
    block.w = static_cast<float*>(w.data) + first;
    block.kept = kept != nullptr ? kept + first : nullptr;
    block.matrix = static_cast<const float*>(factor.data) + first * grid.cols + first;
    block.stride = block.matrix_stride = grid.cols;
    block.first = first;
    block.size = static_cast<int>(std::min(kGridBlock, grid.cols - first));
    round_grid_block(grid, block, range_on_the_way, errors_.as<float>(), stream_);
    const std::int64_t after = grid.cols - first - block.size;
    if (after == 0) break;
    products_.run({.a = view_of(errors_.data(), DType::kF32, grid.rows, block.size),
                   .b = factor.row_block(first, block.size).col_block(first + block.size, after),
                   .c = w.col_block(first + block.size, after),
                   .alpha = -1.0f,
                   .beta = 1.0f,
                   .tf32 = tf32_});
  }
}

void DeviceGridSolver::round_columns(DeviceView values, const std::uint8_t* mask, GroupScales scales,
                                     const QuantGrid& grid) {
  const GridRows rows = last_ = rows_of(values, grid);
  auto* natural = static_cast<float*>(values.data);
  // A row's one group has the range that the start has; groups that a block holds are found as they come.
  const bool on_the_way = scales == GroupScales::kRangeOnTheWay && rows.width <= kGridBlock;
  expect(!on_the_way || kGridBlock % rows.width == 0, "grid: whole groups in a block");
  range_grids(rows, natural, stream_);
  order_columns(rows, natural, w_.as<float>(), nullptr, false, stream_);
  const std::uint8_t* kept = nullptr;
  if (mask != nullptr) {
    order_mask(rows, mask, kept_.as<std::uint8_t>(), stream_);
    kept = kept_.as<std::uint8_t>();
  }
  round_in_order(rows, kept, on_the_way);
  order_columns(rows, w_.as<float>(), natural, nullptr, true, stream_);
}

void DeviceGridSolver::round_to_nearest(DeviceView values, const QuantGrid& grid) {
  const GridRows rows = last_ = rows_of(values, grid);
  range_grids(rows, static_cast<const float*>(values.data), stream_);
  round_to_grid(rows, static_cast<float*>(values.data), stream_);
}

void DeviceGridSolver::target_of(DeviceView w, DeviceView target) {
  const GridRows rows = rows_of(w, {.bits = 4, .group = 0, .asymmetric = false});
  order_columns(rows, static_cast<const float*>(w.data), w_.as<float>(), nullptr, false, stream_);
  products_.run({.a = like(w_, rows), .b = square(h_), .c = like(v_, rows)});
  order_columns(rows, v_.as<float>(), static_cast<float*>(target.data), nullptr, true, stream_);
}

void DeviceGridSolver::solve(DeviceView values, DeviceView target, const Pattern& pattern,
                             const QuantGrid& grid) {
  const GridRows rows = last_ = rows_of(values, grid);
  auto* natural = static_cast<float*>(values.data);
  search_grids(rows, natural, energies_.as<float>(), stream_);
  order_columns(rows, natural, w_.as<float>(), kept_.as<std::uint8_t>(), false, stream_);
  order_columns(rows, static_cast<const float*>(target.data), gradient_.as<float>(), nullptr, false, stream_);
  round_in_order(rows, kept_.as<std::uint8_t>(), false);
  // The gradient from its parts in float; what follows adds small changes to it.
  products_.run({.a = like(w_, rows), .b = square(h_), .c = like(gradient_, rows), .beta = -1.0f});
  state_ = {w_.as<float>(), gradient_.as<float>(), kept_.as<std::uint8_t>(), h_.as<float>(),
            diagonal_.as<float>()};
  const std::int64_t unit = pattern.kind == Pattern::Kind::kNofM    ? pattern.m
                            : pattern.kind == Pattern::Kind::kBlock ? 0
                                                                    : rows.cols;
  for (int round = 0; round <= kRounds; ++round) {
    check_interrupt();
    descend_on_grid(rows, state_, kSweeps, stream_);
    if (round < kRoundsOfExchanges) exchange_weights(rows, state_, unit, kExchanges, stream_);
    if (round < kRoundsOfScales) fit_scales(rows);
  }
  order_columns(rows, w_.as<float>(), natural, nullptr, true, stream_);
}

void DeviceGridSolver::fit_scales(const GridRows& grid) {
  const GridScales fit{fit_scales_.as<float>(), fit_direction_.as<float>(),
                       fit_slope_.as<double>(), fit_gradient_.as<float>(),
                       v_.as<float>(),          vh_.as<float>()};
  const auto multiply = [&] {
    products_.run({.a = like(v_, grid), .b = square(h_), .c = like(vh_, grid), .tf32 = tf32_});
  };
  for (int s = 0; s < kScaleSteps; ++s) {
    next_scale_direction(grid, state_, fit, s == 0, stream_);
    multiply();
    step_scales(grid, fit, stream_);
  }
  changes_of_scales(grid, state_, fit, stream_);
  multiply();
  take_scales(grid, state_, fit, stream_);
}

void DeviceGridSolver::download(DeviceView values, std::int64_t first, QuantizedWeight& weight) {
  const std::int64_t groups = last_.rows * last_.groups;
  grid_codes(last_, static_cast<const float*>(values.data), codes_.as<std::uint8_t>(),
             scale_bits_.as<std::uint16_t>(), zero_codes_.as<std::uint8_t>(), stream_);
  const auto fetch = [&](const DeviceBuffer& from, auto& to, std::int64_t at, std::int64_t count) {
    expect(static_cast<std::int64_t>(to.size()) >= at + count, "grid: room for the codes");
    check(cudaMemcpyAsync(to.data() + at, from.data(), static_cast<std::size_t>(count) * sizeof(to[0]),
                          cudaMemcpyDeviceToHost, stream_));
  };
  fetch(codes_, weight.codes, first * last_.cols, values.numel());
  fetch(scale_bits_, weight.scales, first * last_.groups, groups);
  if (weight.grid.asymmetric) fetch(zero_codes_, weight.zeros, first * last_.groups, groups);
  check(cudaStreamSynchronize(stream_));
}

}  // namespace swiftprune::cuda
