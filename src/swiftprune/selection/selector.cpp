#include "swiftprune/selection/selector.h"

#include <algorithm>
#include <array>

#include "swiftprune/core/error.h"
#include "swiftprune/selection/ewma_selector.h"
#include "swiftprune/selection/exact_selector.h"
#include "swiftprune/selection/sort_selector.h"

namespace swiftprune {
namespace {

using Method = ThresholdSearch::Method;

struct Entry {
  SelectorInfo info;
  std::unique_ptr<Selector> (*make)(const SelectorOptions&);
};

std::unique_ptr<Selector> make_ewma_window(const SelectorOptions& options) {
  return std::make_unique<ExactSelector>("ewma-window", row_kernels(options.isa), Method::kEwmaWindow);
}
std::unique_ptr<Selector> make_radix(const SelectorOptions& options) {
  return std::make_unique<ExactSelector>("radix", row_kernels(options.isa), Method::kRadix);
}
std::unique_ptr<Selector> make_sort(const SelectorOptions&) { return std::make_unique<SortSelector>(); }
std::unique_ptr<Selector> make_ewma(const SelectorOptions& options) {
  return std::make_unique<EwmaSelector>(options);
}

constexpr std::array kSelectors = {
    Entry{{SelectKind::kEwmaWindow, "ewma-window",
           "exact; an EWMA over the rows predicts a window around each row's threshold", "SwiftPrune"},
          make_ewma_window},
    Entry{{SelectKind::kRadix, "radix",
           "exact; a histogram of the leading bits of the scores, then their bin", "radix select"},
          make_radix},
    Entry{{SelectKind::kSort, "sort", "exact; stable sort, the reference of the others", "stable sort"},
          make_sort},
    Entry{{SelectKind::kEwma, "ewma",
           "keeps what exceeds an EWMA of mean and deviation; the sparsity is found through lambda",
           "SwiftPrune, as published"},
          make_ewma},
};

const Entry& entry_of(SelectKind kind) {
  const auto* const found = std::find_if(kSelectors.begin(), kSelectors.end(),
                                         [&](const Entry& entry) { return entry.info.kind == kind; });
  expect(found != kSelectors.end(), "selection: a kind of the list");
  return *found;
}

constexpr auto kInfos = [] {
  std::array<SelectorInfo, kSelectors.size()> infos;
  for (std::size_t i = 0; i < infos.size(); ++i) infos[i] = kSelectors[i].info;
  return infos;
}();

}  // namespace

Selection Selector::select(const ScoreView& scores, const PruneTarget& target) const {
  check_target(target, scores.values.rows, scores.values.cols);
  Selection selection{Mask(scores.values.rows, scores.values.cols), {}};
  selection.report = do_select(scores, target, selection.mask, nullptr);
  const std::int64_t numel = scores.values.numel();
  if (numel > 0) {
    selection.report.sparsity =
        1.0 - static_cast<double>(selection.mask.num_kept()) / static_cast<double>(numel);
  }
  return selection;
}

Selection Selector::prune(MutableWeightView weight, const Scores& scores, const PruneTarget& target) const {
  check_target(target, weight.rows, weight.cols);
  Selection selection{Mask(weight.rows, weight.cols), {}};
  const ScoreView view = scores.view(weight);
  expect(view.values.rows == weight.rows && view.values.cols == weight.cols, "prune: scores of this weight");
  selection.report = do_select(view, target, selection.mask, &weight);
  if (weight.numel() > 0) {
    selection.report.sparsity =
        1.0 - static_cast<double>(selection.mask.num_kept()) / static_cast<double>(weight.numel());
  }
  return selection;
}

std::span<const SelectorInfo> selectors() { return kInfos; }

std::string_view name_of(SelectKind kind) { return entry_of(kind).info.name; }

SelectKind parse_select(std::string_view name) {
  std::string known;
  for (const Entry& entry : kSelectors) {
    if (entry.info.name == name) return entry.info.kind;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.info.name);
  }
  bad_usage("selector: found '{}', expected one of {}", name, known);
}

std::unique_ptr<Selector> make_selector(SelectKind kind, const SelectorOptions& options) {
  return entry_of(kind).make(options);
}

const RowKernels& row_kernels(std::optional<Isa> isa) {
  const CpuFeatures& cpu = cpu_features();
  const RowKernels* avx2 = cpu.avx2 ? avx2_row_kernels() : nullptr;
  const RowKernels* avx512 = cpu.avx512 ? avx512_row_kernels() : nullptr;
  if (!isa) return avx512 != nullptr ? *avx512 : avx2 != nullptr ? *avx2 : baseline_row_kernels();
  if (*isa == Isa::kBaseline) return baseline_row_kernels();
  const RowKernels* wanted = *isa == Isa::kAvx2 ? avx2 : avx512;
  if (wanted == nullptr) {
    fail(ErrorKind::kDevice, "selection kernels: this processor lacks {}; use another instruction set",
         *isa == Isa::kAvx2 ? "AVX2" : "AVX-512");
  }
  return *wanted;
}

}  // namespace swiftprune
