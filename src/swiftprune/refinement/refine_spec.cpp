#include "swiftprune/refinement/refine_spec.h"

#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/named_numbers.h"

namespace swiftprune {
namespace {

using Numbers = std::vector<double>;

constexpr NumberRange kSteps{1, 1000, true};
constexpr NumberRange kDamping{1e-6, 1e3, false};
constexpr NumberRange kShare{0.0, 1.0, false};
constexpr NumberRange kSwitch{0.0, 1.0, true};

struct NumberInfo {
  std::string_view name;
  NumberRange range{};
};

struct Entry {
  RefinerInfo info;
  RefineFacts facts;
  std::array<NumberInfo, 4> numbers{};  // in brackets, in order; a name is empty where there are fewer
  std::size_t num_shown = 0;            // numbers that are always printed
  // From the numbers given, and all numbers of a part.
  RefinePart (*read)(const Numbers& given) = nullptr;
  Numbers (*write)(const RefinePart& part) = nullptr;

  std::size_t num_numbers() const {
    return static_cast<std::size_t>(
        std::count_if(numbers.begin(), numbers.end(), [](const NumberInfo& n) { return !n.name.empty(); }));
  }
};

template <class T>
void take(const Numbers& given, std::size_t i, T& option) {
  if (i < given.size()) option = static_cast<T>(given[i]);
}

RefinePart read_pcg(const Numbers& given) {
  PcgOptions options;
  take(given, 0, options.steps);
  take(given, 1, options.damping);
  return options;
}
Numbers write_pcg(const RefinePart& part) {
  const auto& options = std::get<PcgOptions>(part);
  return {static_cast<double>(options.steps), options.damping};
}

template <class Options>
void take_steps(const Numbers& given, Options& options) {
  take(given, 0, options.steps);
  options.ramp = default_ramp(options.steps);
  take(given, 1, options.ramp);
}

RefinePart read_admm(const Numbers& given) {
  AdmmOptions options;
  take_steps(given, options);
  take(given, 2, options.damping);
  take(given, 3, options.rho);
  return options;
}
Numbers write_admm(const RefinePart& part) {
  const auto& options = std::get<AdmmOptions>(part);
  return {static_cast<double>(options.steps), static_cast<double>(options.ramp), options.damping,
          options.rho};
}

RefinePart read_aligned_admm(const Numbers& given) {
  AlignedAdmmOptions options;
  take_steps(given, options);
  take(given, 2, options.alpha);
  take(given, 3, options.beta);
  return options;
}
Numbers write_aligned_admm(const RefinePart& part) {
  const auto& options = std::get<AlignedAdmmOptions>(part);
  return {static_cast<double>(options.steps), static_cast<double>(options.ramp), options.alpha, options.beta};
}

RefinePart read_swaps(const Numbers& given) {
  SwapsOptions options;
  take(given, 0, options.max_swaps);
  return options;
}
Numbers write_swaps(const RefinePart& part) {
  return {static_cast<double>(std::get<SwapsOptions>(part).max_swaps)};
}

RefinePart read_sparsegpt(const Numbers& given) {
  SparseGptOptions options;
  take(given, 0, options.damping);
  return options;
}
Numbers write_sparsegpt(const RefinePart& part) { return {std::get<SparseGptOptions>(part).damping}; }

RefinePart read_rtn(const Numbers&) { return RtnOptions{}; }
Numbers write_rtn(const RefinePart&) { return {}; }

RefinePart read_gptq(const Numbers& given) {
  GptqOptions options;
  take(given, 0, options.damping);
  take(given, 1, options.act_order);
  return options;
}
Numbers write_gptq(const RefinePart& part) {
  const auto& options = std::get<GptqOptions>(part);
  return {options.damping, options.act_order ? 1.0 : 0.0};
}

constexpr RefinerInfo kNone{"none", "the kept weights as they are", ""};

// In the order of RefinePart.
constexpr std::array kEntries = {
    Entry{.info = {"pcg", "least squares on the kept weights by conjugate gradients",
                   "Hestenes and Stiefel 1952"},
          .facts = {.uses_mask = true, .works_by_rows = true},
          .numbers = {{{"steps", kSteps}, {"damping", kDamping}}},
          .num_shown = 1,
          .read = read_pcg,
          .write = write_pcg},
    Entry{.info = {"admm", "finds mask and weights together", "arXiv 2401.02938, arXiv 2406.07831"},
          .facts = {.finds_grid = true, .works_by_rows = true, .finds_low_rank = true},
          .numbers = {{{"steps", kSteps},
                       {"ramp (3/4 of the steps)", kSteps},
                       {"damping", kDamping},
                       {"rho", kDamping}}},
          .num_shown = 2,
          .read = read_admm,
          .write = write_admm},
    Entry{
        .info = {"aligned-admm", "admm that also makes up for the error of the layers before",
                 "this project; as admm"},
        .facts = {.uses_alignment = true, .finds_grid = true, .works_by_rows = true, .finds_low_rank = true},
        .numbers =
            {{{"steps", kSteps}, {"ramp (3/4 of the steps)", kSteps}, {"alpha", kShare}, {"beta", kShare}}},
        .num_shown = 2,
        .read = read_aligned_admm,
        .write = write_aligned_admm},
    Entry{.info = {"swaps", "exchanges kept and pruned weights, changes no weight", "SwiftPrune"},
          .facts =
              {.uses_mask = true, .keeps_weights = true, .moves_single_weights = true, .works_by_rows = true},
          .numbers = {{{"swaps a row", kSteps}}},
          .num_shown = 1,
          .read = read_swaps,
          .write = write_swaps},
    Entry{.info = {"sparsegpt", "column by column with error compensation", "arXiv 2301.00774"},
          .facts = {.finds_grid = true},
          .numbers = {{{"damping", kDamping}}},
          .num_shown = 0,
          .read = read_sparsegpt,
          .write = write_sparsegpt},
    Entry{.info = {"rtn", "the kept weights to the nearest values of the grid", ""},
          .facts = {.uses_gram = false, .uses_mask = true, .finds_grid = true, .needs_grid = true},
          .numbers = {},
          .num_shown = 0,
          .read = read_rtn,
          .write = write_rtn},
    Entry{.info = {"gptq", "column by column to the grid with error compensation", "arXiv 2210.17323"},
          .facts = {.uses_mask = true, .finds_grid = true, .needs_grid = true},
          .numbers = {{{"damping", kDamping}, {"act order (0 or 1)", kSwitch}}},
          .num_shown = 0,
          .read = read_gptq,
          .write = write_gptq},
};
static_assert(kEntries.size() == std::variant_size_v<RefinePart>);

constexpr auto kInfos = [] {
  std::array<RefinerInfo, kEntries.size() + 1> infos;
  infos[0] = kNone;
  for (std::size_t i = 0; i < kEntries.size(); ++i) infos[i + 1] = kEntries[i].info;
  return infos;
}();

const Entry& entry_of(const RefinePart& part) { return kEntries[part.index()]; }

[[noreturn]] void wrong_numbers(const Entry& entry, std::string_view text) {
  const Numbers defaults = entry.write(entry.read({}));
  std::vector<std::string> numbers;
  for (std::size_t i = 0; i < entry.num_numbers(); ++i)
    numbers.push_back(fmt::format("{} {}", entry.numbers[i].name, defaults[i]));
  bad_usage("refine: found '{}', expected {}(...) with {}", text, entry.info.name, fmt::join(numbers, ", "));
}

RefinePart parse_part(std::string_view text) {
  const NamedNumbers parsed = parse_named_numbers(text);
  const auto entry = std::find_if(kEntries.begin(), kEntries.end(),
                                  [&](const Entry& e) { return e.info.name == parsed.name; });
  if (entry == kEntries.end()) {
    std::vector<std::string_view> known;
    for (const RefinerInfo& info : kInfos) known.push_back(info.name);
    bad_usage("refine: found '{}', expected one of {}, or several joined by '+'", text,
              fmt::join(known, ", "));
  }
  bool ok = parsed.well_formed && parsed.numbers.size() <= entry->num_numbers();
  for (std::size_t i = 0; ok && i < parsed.numbers.size(); ++i)
    ok = entry->numbers[i].range.holds(parsed.numbers[i]);
  if (!ok) wrong_numbers(*entry, text);
  return entry->read(parsed.numbers);
}

[[noreturn]] void wrong_order(std::string_view text) {
  bad_usage(
      "refine: found '{}', but only pcg, swaps, rtn and gptq can follow, nothing follows rtn, gptq or none",
      text);
}

bool can_follow(const RefinePart& part) { return facts_of(part).uses_mask; }

std::string joined(std::span<const RefinePart> parts) {
  std::vector<std::string> names;
  for (const RefinePart& part : parts) names.push_back(format(part));
  return fmt::format("{}", fmt::join(names, "+"));
}

}  // namespace

std::span<const RefinerInfo> refiners() { return kInfos; }

std::span<const RefinePart> all_refine_parts() {
  static const auto parts = [] {
    std::vector<RefinePart> all;
    for (const Entry& entry : kEntries) all.push_back(entry.read({}));
    return all;
  }();
  return parts;
}

std::vector<std::string_view> grid_refiners() {
  std::vector<std::string_view> names;
  for (const Entry& entry : kEntries)
    if (entry.facts.finds_grid) names.push_back(entry.info.name);
  return names;
}

std::vector<std::string_view> low_rank_refiners() {
  std::vector<std::string_view> names;
  for (const Entry& entry : kEntries)
    if (entry.facts.finds_low_rank) names.push_back(entry.info.name);
  return names;
}

std::string_view name_of(const RefinePart& part) { return entry_of(part).info.name; }

RefineFacts facts_of(const RefinePart& part) { return entry_of(part).facts; }

std::string format(const RefinePart& part) {
  const Entry& entry = entry_of(part);
  Numbers numbers = entry.write(part);
  // Those behind the shown ones only where one of them is not the default.
  const Numbers defaults = entry.write(entry.read({}));
  const auto shown = static_cast<std::ptrdiff_t>(entry.num_shown);
  if (std::equal(numbers.begin() + shown, numbers.end(), defaults.begin() + shown))
    numbers.resize(entry.num_shown);
  return print_named_numbers(entry.info.name, numbers);
}

RefineSpec::RefineSpec(std::vector<RefinePart> parts) : parts_(std::move(parts)) {
  for (std::size_t i = 1; i < parts_.size(); ++i) {
    if (!can_follow(parts_[i]) || facts_of(parts_[i - 1]).needs_grid) wrong_order(joined(parts_));
  }
}

RefineFacts RefineSpec::facts() const {
  if (parts_.empty()) return kNoRefinement;
  RefineFacts facts = facts_of(parts_.front());
  for (const RefinePart& part : parts_) {
    facts.keeps_weights &= facts_of(part).keeps_weights;
    facts.moves_single_weights |= facts_of(part).moves_single_weights;
    facts.uses_gram |= facts_of(part).uses_gram;
    facts.works_by_rows &= facts_of(part).works_by_rows;
  }
  facts.finds_low_rank &= parts_.size() == 1;  // those that follow would not know of it
  facts.finds_grid = facts_of(parts_.back()).finds_grid;
  facts.needs_grid = facts_of(parts_.back()).needs_grid;
  return facts;
}

bool RefineSpec::works_by_rows(const Pattern& pattern) const {
  return facts().works_by_rows &&
         (pattern.kind == Pattern::Kind::kRow || pattern.kind == Pattern::Kind::kNofM);
}

RefineSpec parse_refine(std::string_view text) {
  std::vector<RefinePart> parts;
  if (text != kNone.name) {
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find('+', begin), text.size());
      const std::string_view part = text.substr(begin, end - begin);
      if (part == kNone.name) wrong_order(text);
      parts.push_back(parse_part(part));
      if (parts.size() > 1 && !can_follow(parts.back())) wrong_order(text);
      begin = end + 1;
    }
  }
  RefineSpec spec(std::move(parts));
  spec.text_ = text;
  return spec;
}

std::string format(const RefineSpec& spec) {
  if (!spec.text_.empty()) return spec.text_;
  return spec.is_none() ? std::string(kNone.name) : joined(spec.parts_);
}

void check_pattern(const RefineFacts& facts, const Pattern& pattern, std::string_view tensor) {
  if (!facts.moves_single_weights || pattern.kind != Pattern::Kind::kBlock) return;
  bad_usage("{}: the refinement swaps moves single weights and cannot keep the pattern {}; use pcg or admm",
            tensor, format(pattern));
}

}  // namespace swiftprune
