#include "swiftprune/refinement/refiner.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <vector>

#include <fmt/ranges.h>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/refinement/admm.h"
#include "swiftprune/refinement/aligned_admm.h"
#include "swiftprune/refinement/layer_error.h"
#include "swiftprune/refinement/pcg.h"
#include "swiftprune/refinement/row_loops.h"
#include "swiftprune/refinement/sparsegpt.h"
#include "swiftprune/refinement/swaps.h"
#include "swiftprune/scoring/damped_inverse.h"
#include "swiftprune/selection/exact_selector.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kErrorRows = 256;

Matrix masked(ConstMatrixView weight, const Mask& mask) {
  const RowKernels& kernels = row_kernels({});
  Matrix result(weight.rows, weight.cols);
  parallel_for(weight.rows, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      std::copy_n(weight.row(r), weight.cols, result.row(r));
      zero_row(kernels, mutable_weight_view(result.view()), r, mask.row(r));
    }
  });
  return result;
}

// Throws for the first value that is not finite.
void check_finite(ConstMatrixView weight, std::string_view tensor, std::string_view what) {
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    for (std::int64_t c = 0; c < weight.cols; ++c) {
      if (std::isfinite(weight.at(r, c))) continue;
      bad_input("{}: found a {} that is {} at row {}, column {}, expected finite numbers", tensor, what,
                weight.at(r, c), r, c);
    }
  }
}

// The dense weights under the mask, nothing else.
class NoRefiner final : public Refiner {
 public:
  std::string name() const override { return "none"; }
  bool uses_gram() const override { return false; }
  bool uses_mask() const override { return true; }
  bool keeps_weights() const override { return true; }

 private:
  std::unique_ptr<PreparedGram> do_prepare(const LayerStats&, const Backend&,
                                           std::string_view) const override {
    return std::make_unique<PreparedGram>();
  }
  Refinement do_refine(const RefineTask& task, const PreparedGram&, const Backend&) const override {
    return {masked(task.weight, *task.mask), *task.mask, {}};
  }
};

// One refiner after the other; each starts from the mask and the weights of the one before.
class ChainRefiner final : public Refiner {
 public:
  explicit ChainRefiner(std::vector<std::unique_ptr<Refiner>> parts) : parts_(std::move(parts)) {}
  std::string name() const override {
    std::vector<std::string> names;
    for (const auto& part : parts_) names.push_back(part->name());
    return fmt::format("{}", fmt::join(names, "+"));
  }
  bool uses_mask() const override { return parts_.front()->uses_mask(); }
  bool keeps_weights() const override {
    return std::all_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->keeps_weights(); });
  }
  bool uses_alignment() const override { return parts_.front()->uses_alignment(); }

 private:
  struct Prepared final : PreparedGram {
    std::vector<std::unique_ptr<PreparedGram>> parts;
  };

  std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend& backend,
                                           std::string_view tensor) const override {
    auto prepared = std::make_unique<Prepared>();
    for (const auto& part : parts_) prepared->parts.push_back(part->prepare(stats, backend, tensor));
    return prepared;
  }

  Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                       const Backend& backend) const override {
    const auto& grams = static_cast<const Prepared&>(prepared).parts;
    RefineTask part_task = task;
    part_task.measure_error = false;
    Refinement result;
    RefineReport report;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      Refinement next = parts_[i]->refine(part_task, *grams[i], backend);
      report.damping = std::max(report.damping, next.report.damping);
      report.damping_raised += next.report.damping_raised;
      result = std::move(next);
      part_task.mask = &result.mask;
      part_task.start = &result.weight;
    }
    result.report = report;
    return result;
  }

  std::vector<std::unique_ptr<Refiner>> parts_;
};

// -- The list

using Numbers = std::vector<double>;

double number_or(const Numbers& numbers, std::size_t i, double fallback) {
  return i < numbers.size() ? numbers[i] : fallback;
}

std::unique_ptr<Refiner> make_none(const Numbers&) { return std::make_unique<NoRefiner>(); }
std::unique_ptr<Refiner> make_pcg_from(const Numbers& n) {
  return make_pcg({.steps = static_cast<int>(number_or(n, 0, 20)), .damping = number_or(n, 1, 0.01)});
}
std::unique_ptr<Refiner> make_admm_from(const Numbers& n) {
  const auto steps = static_cast<int>(number_or(n, 0, 20));
  const auto ramp = static_cast<int>(number_or(n, 1, std::round(0.75 * steps)));
  return make_admm(
      {.steps = steps, .ramp = ramp, .damping = number_or(n, 2, 0.1), .rho = number_or(n, 3, 1.0)});
}
std::unique_ptr<Refiner> make_aligned_admm_from(const Numbers& n) {
  const auto steps = static_cast<int>(number_or(n, 0, 20));
  const auto ramp = static_cast<int>(number_or(n, 1, std::round(0.75 * steps)));
  const AlignedAdmmOptions defaults;
  return make_aligned_admm({.steps = steps,
                            .ramp = ramp,
                            .alpha = number_or(n, 2, defaults.alpha),
                            .beta = number_or(n, 3, defaults.beta)});
}
std::unique_ptr<Refiner> make_swaps_from(const Numbers& n) {
  return make_swaps({.max_swaps = static_cast<int>(number_or(n, 0, 50))});
}
std::unique_ptr<Refiner> make_sparsegpt_from(const Numbers& n) {
  return make_sparsegpt({.damping = number_or(n, 0, 0.01)});
}

struct Range {
  double min = 0.0;
  double max = 0.0;
  bool whole = false;
};
constexpr Range kSteps{1, 1000, true};
constexpr Range kDamping{1e-6, 1e3, false};
constexpr Range kShare{0.0, 1.0, false};

struct Entry {
  RefinerInfo info;
  std::array<Range, 4> ranges{};  // of the numbers, in order
  std::size_t num_numbers = 0;
  std::unique_ptr<Refiner> (*make)(const Numbers&);
};

constexpr std::array kRefiners = {
    Entry{.info = {"none", "", "the kept weights as they are", ""}, .make = make_none},
    Entry{.info = {"pcg", "steps 20, damping 0.01",
                   "least squares on the kept weights by conjugate gradients", "Hestenes and Stiefel 1952"},
          .ranges = {kSteps, kDamping},
          .num_numbers = 2,
          .make = make_pcg_from},
    Entry{.info = {"admm", "steps 20, ramp 3/4 of them, damping 0.1, rho 1",
                   "finds mask and weights together", "arXiv 2401.02938, arXiv 2406.07831"},
          .ranges = {kSteps, kSteps, kDamping, kDamping},
          .num_numbers = 4,
          .make = make_admm_from},
    Entry{.info = {"aligned-admm", "steps 20, ramp 3/4 of them, alpha 0.35, beta 0.5",
                   "admm that also makes up for the error of the layers before", "this project; as admm"},
          .ranges = {kSteps, kSteps, kShare, kShare},
          .num_numbers = 4,
          .make = make_aligned_admm_from},
    Entry{.info = {"swaps", "swaps a row 50", "exchanges kept and pruned weights, changes no weight",
                   "SwiftPrune"},
          .ranges = {kSteps},
          .num_numbers = 1,
          .make = make_swaps_from},
    Entry{
        .info = {"sparsegpt", "damping 0.01", "column by column with error compensation", "arXiv 2301.00774"},
        .ranges = {kDamping},
        .num_numbers = 1,
        .make = make_sparsegpt_from},
};

constexpr auto kInfos = [] {
  std::array<RefinerInfo, kRefiners.size()> infos;
  for (std::size_t i = 0; i < infos.size(); ++i) infos[i] = kRefiners[i].info;
  return infos;
}();

// "name" or "name(1,2.5)"
std::unique_ptr<Refiner> make_part(std::string_view spec) {
  const std::size_t bracket = spec.find('(');
  const std::string_view name = spec.substr(0, bracket);
  std::string known;
  for (const Entry& entry : kRefiners) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.info.name);
    if (entry.info.name != name) continue;
    Numbers numbers;
    bool ok = bracket == std::string_view::npos || spec.ends_with(')');
    std::string_view rest = bracket == std::string_view::npos || !ok
                                ? std::string_view{}
                                : spec.substr(bracket + 1, spec.size() - bracket - 2);
    ok = ok && (bracket == std::string_view::npos || !rest.empty());
    while (ok && !rest.empty()) {
      double value = 0.0;
      const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
      const Range range = numbers.size() < entry.num_numbers ? entry.ranges[numbers.size()] : Range{1, 0};
      ok = error == std::errc{} && value >= range.min && value <= range.max &&
           (!range.whole || value == std::floor(value));
      numbers.push_back(value);
      rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
      if (rest.empty()) break;
      ok = ok && rest.front() == ',' && rest.size() > 1;
      rest.remove_prefix(1);
    }
    if (!ok) {
      bad_usage("refine: found '{}', expected {}", spec,
                entry.num_numbers == 0 ? fmt::format("'{}' without numbers", name)
                                       : fmt::format("{}(...) with {}", name, entry.info.parameters));
    }
    return entry.make(numbers);
  }
  bad_usage("refine: found '{}', expected one of {}, or several joined by '+'", spec, known);
}

}  // namespace

std::unique_ptr<PreparedGram> Refiner::prepare(const LayerStats& stats, const Backend& backend,
                                               std::string_view tensor) const {
  if (uses_gram()) {
    expect(stats.gram != nullptr, "prepare: the Gram matrix was collected");
    check_gram(stats.gram, stats.gram->rows(), tensor);
  }
  auto prepared = do_prepare(stats, backend, tensor);
  prepared->gram = uses_gram() ? stats.gram : nullptr;
  return prepared;
}

Refinement Refiner::refine(const RefineTask& task, const PreparedGram& prepared,
                           const Backend& backend) const {
  const ConstMatrixView w = task.weight;
  check_target(task.target, w.rows, w.cols);
  expect(!uses_mask() || task.mask != nullptr, "refine: a mask for a refiner that uses one");
  expect(task.mask == nullptr || (task.mask->rows() == w.rows && task.mask->cols() == w.cols),
         "refine: the mask of this weight");
  expect(task.start == nullptr || (task.start->rows() == w.rows && task.start->cols() == w.cols),
         "refine: start weights of this shape");
  expect(prepared.gram == nullptr || prepared.gram->rows() == w.cols,
         "refine: the Gram of this linear's inputs");
  check_finite(w, task.target.tensor, "weight");
  Refinement result = do_refine(task, prepared, backend);
  check_finite(result.weight.view(), task.target.tensor, "refined weight");
  if (prepared.gram == nullptr || !task.measure_error || w.numel() == 0) return result;

  const Matrix& gram = *prepared.gram;
  for (std::int64_t j = 0; j < gram.rows(); ++j) result.report.num_dead += gram.at(j, j) == 0.0f;
  const std::int64_t step = ceil_div(w.rows, kErrorRows);
  const double whole = layer_error(sampled_difference(w, {}, step).view(), gram.view(), backend);
  if (!(whole > 0.0)) return result;
  const Matrix before = masked(w, task.mask != nullptr ? *task.mask : result.mask);
  const auto relative = [&](const Matrix& weight) {
    return layer_error(sampled_difference(w, weight.view(), step).view(), gram.view(), backend) / whole;
  };
  result.report.error_before = relative(before);
  result.report.error_after = relative(result.weight);
  return result;
}

std::span<const RefinerInfo> refiners() { return kInfos; }

std::unique_ptr<Refiner> make_refiner(std::string_view spec) {
  std::vector<std::unique_ptr<Refiner>> parts;
  for (std::size_t begin = 0; begin <= spec.size();) {
    const std::size_t end = std::min(spec.find('+', begin), spec.size());
    parts.push_back(make_part(spec.substr(begin, end - begin)));
    const bool follows = parts.size() > 1;
    if (follows &&
        (!parts.back()->uses_mask() || !parts.back()->uses_gram() || !parts.front()->uses_gram())) {
      bad_usage("refine: found '{}', but only pcg and swaps can follow, and nothing follows none", spec);
    }
    begin = end + 1;
  }
  if (parts.size() == 1) return std::move(parts.front());
  return std::make_unique<ChainRefiner>(std::move(parts));
}

const RowLoops& row_loops() {
  const CpuFeatures& cpu = cpu_features();
  return cpu.avx512 ? kAvx512RowLoops : cpu.avx2 ? kAvx2RowLoops : kBaselineRowLoops;
}

}  // namespace swiftprune
