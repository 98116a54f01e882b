#include "swiftprune/cuda/refinement/refiner.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "swiftprune/core/overloaded.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/selection/selection_kernels.h"

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "the refinement of a linear";

std::uint64_t floats(std::int64_t n) { return static_cast<std::uint64_t>(n) * sizeof(float); }

bool is_admm(const RefinePart& part) {
  return std::holds_alternative<AdmmOptions>(part) || std::holds_alternative<AlignedAdmmOptions>(part);
}
// Matrices [O, I] beside those of admm.
int num_work(const RefinePart& part) {
  return std::visit(
      Overloaded{[](const PcgOptions&) { return 4; }, [](const SwapsOptions&) { return 2; },
                 [](const SparseGptOptions&) { return 3; }, [](const AdmmOptions&) { return 0; },
                 [](const AlignedAdmmOptions&) { return 0; }, [](const RtnOptions&) { return 0; },
                 [](const GptqOptions&) { return 0; }},
      part);
}

}  // namespace

DeviceRefiner::DeviceRefiner(DeviceMemory& memory, Products& products, MatrixSelect& matrix, const Plan& plan,
                             const LinearSizes& sizes, DType compute, cudaStream_t stream)
    : products_(products),
      matrix_(matrix),
      stream_(stream),
      tf32_(compute == DType::kBF16),
      unused_counters_(memory, sizeof(PruneCounters), kWhat) {
  check(cudaMemsetAsync(unused_counters_.data(), 0, unused_counters_.bytes(), stream));
  bool admm = false;
  bool sparsegpt = false;
  bool on_grid = false;
  DeviceGridSolver::Room room{sizes.rows, sizes.cols, sizes.numel, 0, false};
  bool chain = false;
  int num = 0;
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune) continue;
    chain |= entry.refine.parts().size() > 1;
    if (entry.grid) {
      on_grid = true;
      room.groups = std::max(room.groups, entry.rows * entry.grid->groups_of(entry.cols));
      room.descends |= is_admm(entry.refine.parts().back());
    }
    for (const RefinePart& part : entry.refine.parts()) {
      admm |= is_admm(part);
      sparsegpt |= std::holds_alternative<SparseGptOptions>(part);
      num = std::max(num, num_work(part));
    }
  }
  if (on_grid) {
    grid_.emplace(memory, products, room, tf32_, stream);
    values_ = DeviceBuffer(memory, floats(sizes.numel), kWhat);
    grid_norm_ = DeviceBuffer(memory, floats(sizes.cols), kWhat);
  }
  if (admm) {
    admm_.emplace(memory, products, matrix, sizes.rows, sizes.cols, sizes.numel, stream,
                  room.descends ? &*grid_ : nullptr);
  }
  for (int i = 0; i < num; ++i) work_.emplace_back(memory, floats(sizes.numel), kWhat);
  if (num > 0) {
    columns_ = DeviceBuffer(memory, floats(std::max(sizes.cols, kSparseGptBlock)), kWhat);
    energy_ = DeviceBuffer(memory, floats(sizes.rows), kWhat);
  }
  if (sparsegpt) {
    factor_.emplace(memory, sizes.cols, stream);
    block_mask_ = DeviceBuffer(memory, static_cast<std::uint64_t>(sizes.rows * kSparseGptBlock), kWhat);
    counts_ = DeviceBuffer(memory, static_cast<std::uint64_t>(sizes.rows) * sizeof(std::int32_t), kWhat);
  }
  if (chain) {
    gram_copy_ = DeviceBuffer(memory, floats(sizes.cols * sizes.cols), "Gram matrices");
    between_ = DeviceBuffer(memory, floats(sizes.numel), kWhat);
    mask_ = DeviceBuffer(memory, static_cast<std::uint64_t>(sizes.numel), "masks");
  }
}

void DeviceRefiner::prepare(const RefineSpec& spec, const DeviceStats* stats, float* cross,
                            std::string_view tensor) {
  gram_ = stats != nullptr ? stats->gram() : nullptr;
  expect(!spec.is_none() && (gram_ != nullptr || !spec.facts().uses_gram),
         "refine: a refinement and a Gram matrix");
  spec_ = spec;
  raised_damping_.reset();
  if (gram_ == nullptr) return;
  inputs_ = stats->inputs();
  unit_ = damping_unit(*stats);
  const RefinePart& first = spec_.parts().front();
  if (const auto* gptq = std::get_if<GptqOptions>(&spec_.parts().back())) prepare_gptq(*gptq, tensor);
  if (is_admm(first)) {
    if (spec_.parts().size() > 1) {  // admm uses the matrix up
      check(cudaMemcpyAsync(gram_copy_.data(), gram_, floats(inputs_ * inputs_), cudaMemcpyDeviceToDevice,
                            stream_));
      gram_ = gram_copy_.as<float>();
    }
    const auto* plain = std::get_if<AdmmOptions>(&first);
    const DeviceAdmmOptions options =
        plain != nullptr ? DeviceAdmmOptions(*plain) : DeviceAdmmOptions(std::get<AlignedAdmmOptions>(first));
    admm_->prepare(*stats, options, cross, tensor);
    if (admm_->damping_raised()) raised_damping_ = admm_->damping();
    if (spec_.parts().size() == 1 && grid_ && grid_->raised() > 0) raised_damping_ = grid_->damping();
  } else if (const auto* sparsegpt = std::get_if<SparseGptOptions>(&first)) {
    factor_->compute(products_, *stats, sparsegpt->damping, true, true, tensor);
    if (factor_->raised() > 0) raised_damping_ = factor_->damping();
  }
}

// As refinement/rounding.cpp: a common unit, inputs that are never used like all others.
void DeviceRefiner::prepare_gptq(const GptqOptions& options, std::string_view tensor) {
  const std::vector<float> norm(static_cast<std::size_t>(inputs_), static_cast<float>(std::sqrt(unit_)));
  copy_to_device(norm, grid_norm_.data(), stream_);
  grid_->prepare(gram_, inputs_, grid_norm_.as<float>(), options.damping, unit_,
                 options.act_order ? ColumnOrder::kByDiagonal : ColumnOrder::kAsTheyAre, tensor);
  if (grid_->raised() > 0) raised_damping_ = grid_->damping();
}

void DeviceRefiner::refine(DeviceView weight, std::uint8_t* mask, const PruneTarget& target, DeviceView out,
                           PruneCounters* counters, std::int64_t first_row) {
  run_parts(weight, mask, target, out, counters, first_row, nullptr);
}

QuantizedWeight DeviceRefiner::refine_on_grid(DeviceView weight, std::uint8_t* mask,
                                              const PruneTarget& target, const QuantGrid& grid,
                                              DeviceView out, PruneCounters* counters) {
  expect(grid_.has_value(), "refine: room for weights on a grid");
  run_parts(weight, mask, target, out, counters, 0, &grid);
  QuantizedWeight result;
  result.grid = grid;
  result.rows = weight.rows;
  result.cols = weight.cols;
  const auto groups = static_cast<std::size_t>(weight.rows * grid.groups_of(weight.cols));
  result.codes.resize(static_cast<std::size_t>(weight.numel()));
  result.scales.resize(groups);
  if (grid.asymmetric) result.zeros.resize(groups);
  grid_->download(values_of(weight), 0, result);
  return result;
}

void DeviceRefiner::run_parts(DeviceView weight, std::uint8_t* mask, const PruneTarget& target,
                              DeviceView out, PruneCounters* counters, std::int64_t first_row,
                              const QuantGrid* grid) {
  const DeviceView between = view_of(between_.data(), DType::kF32, weight.rows, weight.cols);
  const float* start = nullptr;
  if (mask == nullptr) mask = mask_.as<std::uint8_t>();  // of a chain whose first part finds it
  const std::vector<RefinePart>& parts = spec_.parts();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const bool last = i + 1 == parts.size();
    run(parts[i], weight, start, mask, target, last ? out : between,
        last ? counters : unused_counters_.as<PruneCounters>(), first_row, last ? grid : nullptr);
    if (last) return;
    if (i == 0 && !facts_of(parts[i]).uses_mask) mask_of(between_.as<float>(), weight.numel(), mask, stream_);
    start = between_.as<float>();
  }
}

void DeviceRefiner::run(const RefinePart& part, DeviceView weight, const float* start, std::uint8_t* mask,
                        const PruneTarget& target, DeviceView out, PruneCounters* counters,
                        std::int64_t first_row, const QuantGrid* grid) {
  // Of those that do nothing else than put a start on a grid.
  const auto put_on_grid = [&](const auto& round) {
    expect(grid != nullptr, "refine: a grid");
    const DeviceView values = values_of(weight);
    masked_start(weight.data, weight.dtype, start, mask, weight.numel(), static_cast<float*>(values.data),
                 stream_);
    round(values);
    round_weights(static_cast<const float*>(values.data), weight.rows, weight.cols, out.data, out.dtype,
                  counters, stream_);
  };
  std::visit(
      Overloaded{
          [&](const PcgOptions& options) { run_pcg(options, weight, start, mask, out, counters); },
          [&](const AdmmOptions&) { run_admm(weight, target, out, counters, first_row, grid); },
          [&](const AlignedAdmmOptions&) { run_admm(weight, target, out, counters, first_row, grid); },
          [&](const SwapsOptions& options) { run_swaps(options, weight, mask, target, out, counters); },
          [&](const SparseGptOptions&) { run_sparsegpt(weight, target, out, counters); },
          [&](const RtnOptions&) {
            put_on_grid([&](DeviceView values) { grid_->round_to_nearest(values, *grid); });
          },
          [&](const GptqOptions& options) {
            const auto scales = options.act_order ? GroupScales::kGiven : GroupScales::kRangeOnTheWay;
            put_on_grid([&](DeviceView values) { grid_->round_columns(values, mask, scales, *grid); });
          }},
      part);
}

void DeviceRefiner::run_admm(DeviceView weight, const PruneTarget& target, DeviceView out,
                             PruneCounters* counters, std::int64_t first_row, const QuantGrid* grid) {
  grid != nullptr ? admm_->refine_on_grid(weight, target, *grid, values_of(weight), out, counters)
                  : admm_->refine(weight, target, out, counters, first_row);
}

void DeviceRefiner::row_energies(DeviceView x, float* product, double* energies) {
  if (is_admm(spec_.parts().front()) && spec_.parts().size() == 1) return admm_->output_energies(x, energies);
  products_.run({.a = x,
                 .b = view_of(const_cast<float*>(gram_), DType::kF32, inputs_, inputs_),
                 .c = view_of(product, DType::kF32, x.rows, x.cols),
                 .tf32 = tf32_});
  row_dots(x.data, DType::kF32, product, x.rows, x.cols, energies, stream_);
}

DeviceView DeviceRefiner::work(int i, DeviceView like) const {
  return view_of(work_[static_cast<std::size_t>(i)].data(), DType::kF32, like.rows, like.cols);
}

void DeviceRefiner::run_pcg(const PcgOptions& options, DeviceView weight, const float* start,
                            const std::uint8_t* mask, DeviceView out, PruneCounters* counters) {
  const DeviceView gram = view_of(const_cast<float*>(gram_), DType::kF32, inputs_, inputs_);
  const DeviceView p = work(1, weight);
  const DeviceView q = work(2, weight);
  PcgArgs args;
  args.weight = weight.data;
  args.dtype = weight.dtype;
  args.mask = mask;
  args.diagonal = columns_.as<float>();
  args.damping = static_cast<float>(options.damping * unit_);
  args.b = work_[0].as<float>();
  args.p = work_[1].as<float>();
  args.q = work_[2].as<float>();
  args.r = work_[3].as<float>();
  args.energy = energy_.as<float>();
  args.rows = weight.rows;
  args.cols = weight.cols;
  pcg_diagonal(gram_, inputs_, args.damping, columns_.as<float>(), stream_);
  const auto multiply = [&] { products_.run({.a = p, .b = gram, .c = q, .tf32 = tf32_}); };
  pcg_start(args, start, stream_);
  multiply();
  pcg_begin(args, stream_);
  for (int step = 0; step < options.steps; ++step) {
    check_interrupt();
    multiply();
    pcg_step(args, stream_);
  }
  round_weights(args.b, weight.rows, weight.cols, out.data, out.dtype, counters, stream_);
}

void DeviceRefiner::run_swaps(const SwapsOptions& options, DeviceView weight, std::uint8_t* mask,
                              const PruneTarget& target, DeviceView out, PruneCounters* counters) {
  const DeviceView pruned = work(0, weight);
  const DeviceView c = work(1, weight);
  pruned_part(weight.data, weight.dtype, mask, weight.numel(), work_[0].as<float>(), stream_);
  products_.run({.a = pruned,
                 .b = view_of(const_cast<float*>(gram_), DType::kF32, inputs_, inputs_),
                 .c = c,
                 .tf32 = tf32_});
  take_diagonal(gram_, inputs_, columns_.as<float>(), stream_);
  SwapsArgs args;
  args.weight = weight.data;
  args.dtype = weight.dtype;
  args.gram = gram_;
  args.diagonal = columns_.as<float>();
  args.c = work_[1].as<float>();
  args.mask = mask;
  args.rows = weight.rows;
  args.cols = weight.cols;
  args.max_swaps = options.max_swaps;
  args.group = target.pattern.kind == Pattern::Kind::kNofM ? static_cast<int>(target.pattern.m) : 0;
  swap_weights(args, stream_);
  if (out.dtype == weight.dtype) {
    apply_mask(weight.data, mask, weight.numel(), out.data, weight.dtype, counters, stream_);
    return;
  }
  convert(weight.data, weight.dtype, work_[0].data(), DType::kF32, weight.numel(), stream_);
  apply_mask(work_[0].data(), mask, weight.numel(), out.data, DType::kF32, counters, stream_);
}

// As block_mask() of refinement/sparsegpt.cpp: the share of the whole matrix is spread evenly over the
// blocks.
void DeviceRefiner::select_block(const PruneTarget& target, const SparseGptArgs& args, std::int64_t first,
                                 std::int64_t cols, const float* column, float* keys, std::uint8_t* mask) {
  const std::int64_t size = args.size;
  const auto share = [&](std::int64_t total) { return total * (first + size) / cols - total * first / cols; };
  PruneRowsArgs rows;
  rows.in = rows.out = keys;
  rows.rows = args.rows;
  rows.cols = size;
  rows.column = column;
  rows.mask = mask;
  rows.counters = unused_counters_.as<PruneCounters>();
  if (target.row_counts.empty()) {
    const std::int64_t total = share(total_prune_count(target, args.rows, cols));
    prune_rows(rows, 0, matrix_.row_counts(rows, total), stream_);
    return;
  }
  std::vector<std::int32_t> counts;
  for (const std::int64_t count : target.row_counts)
    counts.push_back(static_cast<std::int32_t>(std::min(size, share(count))));
  copy_to_device(counts, counts_.data(), stream_);
  prune_rows(rows, 0, counts_.as<std::int32_t>(), stream_);
}

void DeviceRefiner::run_sparsegpt(DeviceView weight, const PruneTarget& target, DeviceView out,
                                  PruneCounters* counters) {
  const std::int64_t rows = weight.rows;
  const std::int64_t cols = weight.cols;
  const DeviceView w = work(0, weight);
  const DeviceView factor = view_of(factor_->data(), DType::kF32, cols, cols);
  const bool groups = target.pattern.kind == Pattern::Kind::kNofM;
  const std::int64_t unit = groups ? target.pattern.m : 1;
  const std::int64_t step = kSparseGptBlock / unit * unit;
  sparsegpt_start(weight.data, weight.dtype, gram_, rows, cols, work_[0].as<float>(), stream_);
  for (std::int64_t first = 0; first < cols; first += step) {
    check_interrupt();
    const std::int64_t size = std::min(step, cols - first);
    const DeviceView errors = view_of(work_[1].data(), DType::kF32, rows, size);
    SparseGptArgs args;
    args.w = static_cast<float*>(w.data) + first;
    args.stride = w.stride;
    args.factor = static_cast<float*>(factor.data) + first * cols + first;
    args.factor_stride = cols;
    args.errors = static_cast<float*>(errors.data);
    args.rows = rows;
    args.size = static_cast<int>(size);
    if (groups) {
      args.kept = static_cast<int>(target.pattern.n);
      args.group = static_cast<int>(target.pattern.m);
    } else {
      auto* keys = work_[2].as<float>();
      sparsegpt_block(args, columns_.as<float>(), keys, stream_);
      select_block(target, args, first, cols, columns_.as<float>(), keys, block_mask_.as<std::uint8_t>());
      args.mask = block_mask_.as<std::uint8_t>();
    }
    sparsegpt_compensate(args, stream_);
    const std::int64_t after = cols - first - size;
    if (after == 0) break;
    products_.run({.a = errors,
                   .b = factor.row_block(first, size).col_block(first + size, after),
                   .c = w.col_block(first + size, after),
                   .alpha = -1.0f,
                   .beta = 1.0f,
                   .tf32 = tf32_});
  }
  round_weights(work_[0].as<float>(), rows, cols, out.data, out.dtype, counters, stream_);
}

}  // namespace swiftprune::cuda
