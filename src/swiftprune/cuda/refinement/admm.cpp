#include "swiftprune/cuda/refinement/admm.h"

#include <algorithm>
#include <vector>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/refinement/inverse.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"
#include "swiftprune/refinement/admm.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kPanels = 4;

std::uint64_t bytes_of(std::int64_t numel, std::int64_t size) {
  return static_cast<std::uint64_t>(numel * size);
}

bool is_whole_matrix(const Pattern& pattern) {
  return pattern.kind == Pattern::Kind::kLayer || pattern.kind == Pattern::Kind::kBlock;
}

}  // namespace

DeviceAdmm::DeviceAdmm(DeviceMemory& memory, Products& products, MatrixSelect& matrix, std::int64_t max_rows,
                       std::int64_t max_cols, std::int64_t max_numel, cudaStream_t stream,
                       DeviceGridSolver* grid)
    : memory_(memory), products_(products), matrix_(matrix), stream_(stream), grid_(grid) {
  constexpr std::string_view kGram = "the inverse Gram matrix";
  constexpr std::string_view kLinear = "the refinement of a linear";
  norm_ = DeviceBuffer(memory, bytes_of(max_cols, sizeof(float)), kGram);
  const std::int64_t square = max_cols * max_cols;
  a_half_ = DeviceBuffer(memory, bytes_of(square, 2), kGram);
  // The scratch of the inverse lies here before P does.
  p_half_ = DeviceBuffer(
      memory, std::max(bytes_of(square, 2), bytes_of(inverse_scratch(max_cols), sizeof(float))), kGram);
  bad_ = DeviceBuffer(memory, sizeof(int), kGram);
  wide_ = DeviceBuffer(memory, bytes_of(max_numel, sizeof(float)), kLinear);
  constant_ = DeviceBuffer(memory, bytes_of(max_numel, sizeof(float)), kLinear);
  y_ = DeviceBuffer(memory, bytes_of(max_numel, sizeof(float)), kLinear);
  t_ = DeviceBuffer(memory, bytes_of(max_numel, 2), kLinear);
  scale_ = DeviceBuffer(memory, bytes_of(max_rows, sizeof(float)), kLinear);
  wanted_ = DeviceBuffer(memory, bytes_of(max_rows, sizeof(double)), kLinear);
  found_ = DeviceBuffer(memory, bytes_of(max_rows, sizeof(double)), kLinear);
  counts_ = DeviceBuffer(memory, bytes_of(max_rows, sizeof(std::int32_t)), kLinear);
  if (grid_ != nullptr) grid_target_ = DeviceBuffer(memory, bytes_of(max_numel, sizeof(float)), kLinear);
}

// What the patterns layer and block need beside the others.
void DeviceAdmm::prepare_matrix_step(DeviceView y) {
  const auto bytes = static_cast<std::uint64_t>(y.numel());
  if (mask_.bytes() < bytes) mask_ = DeviceBuffer(memory_, bytes, "masks");
  std::vector<float> values(static_cast<std::size_t>(2 * y.cols), 0.0f);
  std::fill(values.begin() + y.cols, values.end(), 1.0f);
  if (zeros_and_ones_.bytes() < values.size() * sizeof(float))
    zeros_and_ones_ = DeviceBuffer(memory_, values.size() * sizeof(float), "scores");
  copy_to_device(values, zeros_and_ones_.data(), stream_);
}

void DeviceAdmm::prepare(const DeviceStats& stats, const DeviceAdmmOptions& options, float* moments,
                         std::string_view tensor) {
  expect(stats.gram() != nullptr, "admm: a Gram matrix");
  options_ = options;
  inputs_ = stats.inputs();
  residual_ = options.aligned && options.beta > 0.0 ? stats.residual() : nullptr;
  auto* norm = norm_.as<float>();
  admm_norms(stats.gram(), inputs_, options.admm.energy_floor, norm, stream_);
  if (grid_ != nullptr)
    grid_->prepare(stats.gram(), inputs_, norm, kGridDamping, 0.0, ColumnOrder::kByDiagonal, tensor);
  moments_ = moments;
  if (options.aligned) {
    aligned_moments(stats.gram(), stats.cross(), norm, inputs_, static_cast<float>(options.alpha), moments_,
                    stream_);
  }
  normalised_gram(stats.gram(), norm, inputs_, 0.0f, 1.0f, a_half_.data(), DType::kF16, stream_);
  factor_ = stats.gram();
  normalised_gram(stats.gram(), norm, inputs_, static_cast<float>(options.admm.damping + options.admm.rho),
                  1.0f, factor_, DType::kF32, stream_);
  factorise(tensor);
  // P = WᵀW panel by panel, since W has no rows above a panel's; F32 panels lie where a linear's matrices
  // will.
  const DeviceView w = view_of(factor_, DType::kF32, inputs_, inputs_);
  const DeviceView p = view_of(p_half_.data(), DType::kF16, inputs_, inputs_);
  const auto room = static_cast<std::int64_t>(y_.bytes() / sizeof(float)) / inputs_;
  const std::int64_t panel = std::max<std::int64_t>(1, std::min(room, ceil_div(inputs_, kPanels)));
  for (std::int64_t first = 0; first < inputs_; first += panel) {
    const std::int64_t count = std::min(panel, inputs_ - first);
    const DeviceView wide = view_of(y_.data(), DType::kF32, count, inputs_);
    const DeviceView below = w.row_block(first, inputs_ - first);
    products_.run(
        {.a = below.col_block(first, count), .b = below, .c = wide, .a_transposed = true, .tf32 = true});
    convert(wide.data, DType::kF32, p.row(first), DType::kF16, wide.numel(), stream_);
  }
}

// W in place. Where rounding made the matrix indefinite, its damping is raised tenfold; the Gram matrix then
// comes from its F16 copy, which is as exact as that damping asks for.
void DeviceAdmm::factorise(std::string_view tensor) {
  damping_ = options_.admm.damping;
  for (raised_ = 0;; ++raised_) {
    if (try_inverse_factor(products_, view_of(factor_, DType::kF32, inputs_, inputs_), p_half_.as<float>(),
                           bad_.as<int>(), true, stream_))
      return;
    if (raised_ == kMaxDampingRaises) {
      bad_input(
          "tensor '{}': its Gram matrix has no inverse, with a damping of {:g} neither; expected finite "
          "activations of a common size",
          tensor, damping_);
    }
    damping_ *= 10.0;
    convert(a_half_.data(), DType::kF16, factor_, DType::kF32, inputs_ * inputs_, stream_);
    add_diagonal(factor_, inputs_, static_cast<float>(damping_ + options_.admm.rho), stream_);
  }
}

void DeviceAdmm::row_energies(DeviceView x, double* energies) {
  const DeviceView product = view_of(y_.data(), DType::kF32, x.rows, x.cols);
  products_.run({.a = x, .b = view_of(a_half_.data(), DType::kF16, inputs_, inputs_), .c = product});
  row_dots(x.data, x.dtype, static_cast<const float*>(product.data), x.rows, x.cols, energies, stream_);
}

void DeviceAdmm::output_energies(DeviceView x, double* energies) {
  auto* scale = scale_.as<float>();
  const DeviceView t = view_of(t_.data(), DType::kF16, x.rows, x.cols);
  const DeviceView product = view_of(y_.data(), DType::kF32, x.rows, x.cols);
  admm_start(x.data, DType::kF32, norm_.as<float>(), x.rows, x.cols, scale, t.data, wide_.as<float>(), false,
             stream_);
  products_.run({.a = t, .b = view_of(a_half_.data(), DType::kF16, inputs_, inputs_), .c = product});
  for (int i = 0; i < 2; ++i) {  // the scale of both factors
    scaled_difference(product.data, DType::kF32, nullptr, DType::kF32, scale, x.rows, x.cols, product.data,
                      DType::kF32, stream_);
  }
  row_dots(t.data, DType::kF16, static_cast<const float*>(product.data), x.rows, x.cols, energies, stream_);
}

void DeviceAdmm::step(DeviceView y, DeviceView constant, DeviceView result, const PruneTarget& target,
                      double share) {
  AdmmStepArgs args;
  args.y = static_cast<float*>(y.data);
  args.constant = static_cast<const float*>(constant.data);
  args.t = t_.data();
  args.result = static_cast<float*>(result.data);
  args.rows = y.rows;
  args.cols = y.cols;
  if (target.pattern.kind == Pattern::Kind::kNofM) {
    admm_step_groups(args, static_cast<int>(target.pattern.n), static_cast<int>(target.pattern.m), stream_);
    return;
  }
  PruneTarget part = target;
  part.sparsity *= share;
  if (is_whole_matrix(target.pattern)) {
    PruneRowsArgs keys;
    keys.in = y.data;
    keys.rows = y.rows;
    keys.cols = y.cols;
    // Rows are compared, so their scales count: |y·(row·1 + 0)|.
    keys.column = zeros_and_ones_.as<float>();
    keys.slope = keys.column + y.cols;
    keys.row = scale_.as<float>();
    if (target.pattern.kind == Pattern::Kind::kLayer) {
      admm_step_rows(args, 0, matrix_.row_counts(keys, total_prune_count(part, y.rows, y.cols)), stream_);
      return;
    }
    matrix_.tiles(keys, part, 2, mask_.as<std::uint8_t>());
    admm_step_mask(args, mask_.as<std::uint8_t>(), stream_);
    return;
  }
  std::vector<std::int64_t> row_counts;
  for (const std::int64_t count : target.row_counts) {
    row_counts.push_back(static_cast<std::int64_t>(static_cast<double>(count) * share));
  }
  part.row_counts = row_counts;
  const std::vector<std::int64_t> counts = row_prune_counts(part, y.rows, y.cols);
  const bool uniform =
      std::all_of(counts.begin(), counts.end(), [&](std::int64_t c) { return c == counts.front(); });
  if (!uniform) {
    const std::vector<std::int32_t> narrow(counts.begin(), counts.end());
    copy_to_device(narrow, counts_.data(), stream_);
  }
  admm_step_rows(args, counts.empty() ? 0 : counts.front(), uniform ? nullptr : counts_.as<std::int32_t>(),
                 stream_);
}

void DeviceAdmm::refine(DeviceView weight, const PruneTarget& target, DeviceView out, PruneCounters* counters,
                        std::int64_t first_row) {
  iterate(weight, target, first_row, {});
  admm_finish(wide_.as<float>(), scale_.as<float>(), norm_.as<float>(), wanted(), found_.as<double>(),
              weight.rows, weight.cols, out.data, out.dtype, counters, stream_);
}

void DeviceAdmm::refine_on_grid(DeviceView weight, const PruneTarget& target, const QuantGrid& grid,
                                DeviceView values, DeviceView out, PruneCounters* counters) {
  expect(grid_ != nullptr, "admm: room for weights on a grid");
  const DeviceView aim = view_of(grid_target_.data(), DType::kF32, weight.rows, weight.cols);
  if (!options_.aligned) {
    convert(weight.data, weight.dtype, values.data, DType::kF32, weight.numel(), stream_);
    grid_->target_of(values, aim);
  }
  iterate(weight, target, 0, options_.aligned ? aim : DeviceView{});
  grid_start(wide_.as<float>(), scale_.as<float>(), norm_.as<float>(), wanted(), found_.as<double>(),
             weight.rows, weight.cols, static_cast<float*>(values.data),
             options_.aligned ? static_cast<float*>(aim.data) : nullptr, stream_);
  grid_->solve(values, aim, target.pattern, grid);
  round_weights(static_cast<const float*>(values.data), weight.rows, weight.cols, out.data, out.dtype,
                counters, stream_);
}

void DeviceAdmm::iterate(DeviceView weight, const PruneTarget& target, std::int64_t first_row,
                         DeviceView grid_target) {
  const std::int64_t rows = weight.rows;
  const std::int64_t cols = weight.cols;
  const auto matrix = [&](const DeviceBuffer& buffer, DType dtype) {
    return view_of(buffer.data(), dtype, rows, cols);
  };
  const DeviceView wide = matrix(wide_, DType::kF32);
  const DeviceView constant = matrix(constant_, DType::kF32);
  const DeviceView y = matrix(y_, DType::kF32);
  const DeviceView t = matrix(t_, DType::kF16);
  const DeviceView p_half = view_of(p_half_.data(), DType::kF16, inputs_, inputs_);
  const DeviceView factor = view_of(factor_, DType::kF32, inputs_, inputs_);
  const auto* norm = norm_.as<float>();
  auto* scale = scale_.as<float>();
  const auto rho = static_cast<float>(options_.admm.rho);
  const auto copy = [&](DeviceView from, DeviceView to) {
    check(cudaMemcpyAsync(to.data, from.data, bytes_of(rows * cols, sizeof(float)), cudaMemcpyDeviceToDevice,
                          stream_));
  };

  // t = W' (Z = W', U = 0), constant = C
  admm_start(weight.data, weight.dtype, norm, rows, cols, scale, t.data, static_cast<float*>(wide.data),
             !options_.aligned, stream_);
  bool first_is_free = false;
  if (options_.aligned) {
    row_energies(t, wanted_.as<double>());
    products_.run({.a = wide, .b = view_of(moments_, DType::kF32, inputs_, inputs_), .c = y, .tf32 = true});
    admm_right(static_cast<float*>(y.data), static_cast<const float*>(wide.data), norm,
               residual_ != nullptr ? residual_ + first_row * inputs_ : nullptr,
               static_cast<float>(options_.beta), static_cast<float>(damping_), scale, rows, cols, stream_);
    if (grid_target.data != nullptr) {
      aligned_grid_target(static_cast<const float*>(y.data), scale, weight.data, weight.dtype, norm,
                          static_cast<float>(grid_->damping() - damping_), rows, cols,
                          static_cast<float*>(grid_target.data), stream_);
    }
    products_.run({.a = y, .b = factor, .c = constant, .b_transposed = true, .tf32 = true});
    products_.run({.a = constant, .b = factor, .c = y, .tf32 = true});  // C = (T/n + damping·W')WᵀW
    admm_rescale(static_cast<float*>(constant.data), static_cast<float*>(y.data), t.data, scale,
                 wanted_.as<double>(), rows, cols, stream_);
  } else {
    // W'A P = W' - rho·W'P, and the first step needs no product: B = W'.
    copy(wide, constant);
    products_.run({.a = t, .b = p_half, .c = constant, .alpha = -rho, .beta = 1.0f});
    copy(wide, y);
    first_is_free = true;
  }
  if (is_whole_matrix(target.pattern)) prepare_matrix_step(y);
  for (int s = 0; s < options_.admm.steps; ++s) {
    check_interrupt();
    if (!first_is_free) products_.run({.a = t, .b = p_half, .c = y, .alpha = rho, .beta = 1.0f});
    first_is_free = false;
    const bool last = s + 1 == options_.admm.steps;
    step(y, constant, last ? wide : DeviceView{}, target, last ? 1.0 : ramp_share(s, options_.admm.ramp));
  }
  if (options_.aligned) {
    convert(wide.data, DType::kF32, t.data, DType::kF16, rows * cols, stream_);
    row_energies(t, found_.as<double>());
  }
}

}  // namespace swiftprune::cuda
