#include "swiftprune/pipeline/capabilities.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr StatNeeds kAllStatistics{true, true, true, true, true, true};
constexpr Pattern::Kind kAllPatterns[] = {Pattern::Kind::kRow, Pattern::Kind::kLayer, Pattern::Kind::kNofM,
                                          Pattern::Kind::kBlock};

std::string_view name_of(Pattern::Kind kind) {
  switch (kind) {
    case Pattern::Kind::kRow:
      return "row";
    case Pattern::Kind::kLayer:
      return "layer";
    case Pattern::Kind::kNofM:
      return "N:M";
    case Pattern::Kind::kBlock:
      return "block:RxC";
  }
  return "?";
}

template <class List, class Value>
bool contains(const List& list, const Value& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// "a, b or c"
std::string any_of(const std::vector<std::string_view>& names) {
  if (names.size() < 2) return std::string(names.empty() ? "none" : names.front());
  return fmt::format("{} or {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

std::string names_of(const std::vector<Pattern::Kind>& kinds) {
  std::vector<std::string_view> names;
  for (const Pattern::Kind kind : kinds) names.push_back(name_of(kind));
  return any_of(names);
}

bool reads_no_more(const StatNeeds& needs, const StatNeeds& given) { return (needs | given) == given; }

void check_select(SelectKind select, const Capabilities& device) {
  if (contains(device.selections, select)) return;
  std::vector<std::string_view> names;
  for (const SelectKind kind : device.selections) names.push_back(name_of(kind));
  bad_usage("--select: found {}, expected {} {}; {}", name_of(select), any_of(names), device.where,
            device.instead);
}

void check_score(const PlanEntry& entry, const Capabilities& device) {
  if (!entry.refine.facts().uses_mask || device.has(entry.score)) return;
  std::vector<std::string_view> names;
  for (const ScoreKind* kind : score_kinds()) {
    if (device.has(ScoreSpec(*kind))) names.push_back(kind->name);
  }
  bad_usage("{}: score: found {}, which reads {}, expected {} {}; {}", entry.tensor, format(entry.score),
            entry.score.reads_weights() ? "the weights" : "statistics that are not on the host",
            any_of(names), device.where, device.instead);
}

const RefineAbility* ability_of(const Capabilities& device, const RefinePart& part) {
  const auto ability =
      std::find_if(device.refinements.begin(), device.refinements.end(),
                   [&](const RefineAbility& able) { return able.part.index() == part.index(); });
  return ability == device.refinements.end() ? nullptr : &*ability;
}

void check_refinement(const PlanEntry& entry, const Capabilities& device) {
  const auto refuse_pattern = [&](std::string_view with, const std::vector<Pattern::Kind>& has) {
    bad_usage("{}: pattern: found {}{}, expected {} {}; {}", entry.tensor, format(entry.pattern), with,
              names_of(has), device.where, device.instead);
  };
  if (!contains(device.patterns, entry.pattern.kind)) refuse_pattern("", device.patterns);
  if (!device.chains && entry.refine.parts().size() > 1) {
    bad_usage("{}: refine: found {}, expected a single refinement {}; {}", entry.tensor, format(entry.refine),
              device.where, device.instead);
  }
  for (const RefinePart& part : entry.refine.parts()) {
    const RefineAbility* ability = ability_of(device, part);
    if (ability == nullptr) {
      std::vector<std::string_view> names = {"none"};
      for (const RefineAbility& able : device.refinements) names.push_back(name_of(able.part));
      bad_usage("{}: refine: found {}, expected {} {}; {}", entry.tensor, format(part), any_of(names),
                device.where, device.instead);
    }
    if (!contains(ability->patterns, entry.pattern.kind))
      refuse_pattern(fmt::format(" with {}", name_of(part)), ability->patterns);
  }
}

void check_grid_refinement(const PlanEntry& entry, const Capabilities& device) {
  if (!entry.grid || entry.refine.is_none()) return;
  const RefinePart& last = entry.refine.parts().back();
  if (ability_of(device, last)->grids || !facts_of(last).finds_grid)
    return;  // plan.cpp refuses those that find none
  std::vector<std::string_view> names;
  for (const RefineAbility& able : device.refinements) {
    if (able.grids) names.push_back(name_of(able.part));
  }
  bad_usage("{}: quantize: found {} with {}, expected {} {}; {}", entry.tensor, format(*entry.grid),
            name_of(last), any_of(names), device.where, device.instead);
}

void check_mixed(const Plan& plan, const Capabilities& device) {
  if (device.mixed_refinements) return;
  std::map<std::pair<std::int64_t, LinearInput>, const PlanEntry*> first;
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune || entry.refine.is_none()) continue;
    const PlanEntry& other = *first.try_emplace({entry.layer, entry.input}, &entry).first->second;
    if (other.refine == entry.refine) continue;
    bad_usage("{}: refine: found {}, expected {} as for the other linears of its input {}; {}", entry.tensor,
              format(entry.refine), format(other.refine), device.where, device.instead);
  }
}

}  // namespace

bool Capabilities::has(const ScoreSpec& score) const {
  if (contains(own_scores, &score.kind())) return true;
  return score.reads_weights() ? reads_weights : reads_no_more(score.needs(), score_statistics);
}

const Capabilities& cpu_capabilities() {
  static const Capabilities everything = [] {
    Capabilities c;
    c.where = "on the processor";
    c.score_statistics = kAllStatistics;
    c.reads_weights = c.chains = c.mixed_refinements = c.ranks = c.narrows_experts = c.permutations =
        c.low_rank = true;
    for (const SelectorInfo& info : selectors()) c.selections.push_back(info.kind);
    c.patterns.assign(std::begin(kAllPatterns), std::end(kAllPatterns));
    for (const RefinePart& part : all_refine_parts())
      c.refinements.push_back({part, c.patterns, facts_of(part).finds_grid});
    const auto features = all_model_features();
    c.features.insert(features.begin(), features.end());
    return c;
  }();
  return everything;
}

void check_plan(const Plan& plan, SelectKind select, const Capabilities& device) {
  check_select(select, device);
  if (plan.permute != Permute::kNone && !device.permutations) {
    bad_usage("--permute: found {}, expected none {}; {}", name_of(plan.permute), device.where,
              device.instead);
  }
  if (plan.low_rank() > 0 && !device.low_rank) {
    bad_usage("--low-rank: found {}, expected 0 {}; {}", plan.low_rank(), device.where, device.instead);
  }
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune) continue;
    check_score(entry, device);
    check_refinement(entry, device);
    check_grid_refinement(entry, device);
  }
  check_mixed(plan, device);
}

void check_without_experts(const ModelConfig& model, std::string_view what, std::string_view instead) {
  if (!model.has_experts()) return;
  bad_usage("{}: model of the family {}: found experts, expected a model without; {}", what, model.family,
            instead);
}

void check_model(const ModelConfig& model, const Capabilities& device) {
  const std::set<ModelFeature> needed = features_of(model);
  std::vector<std::string_view> missing;
  std::vector<std::string_view> present;
  for (const ModelFeature feature : needed) {
    if (!device.features.contains(feature)) missing.push_back(name_of(feature));
  }
  for (const ModelFeature feature : device.features) present.push_back(name_of(feature));
  if (!missing.empty()) {
    bad_usage("model of the family {}: found {}, expected one of {} {}; {}", model.family,
              fmt::join(missing, ", "), fmt::join(present, ", "), device.where, device.instead);
  }
  std::int64_t head_size = model.head_size;
  for (const BlockConfig& block : model.blocks) head_size = std::max(head_size, model.head_size_in(block));
  if (device.max_head_size > 0 && head_size > device.max_head_size) {
    bad_usage("model of the family {}: found heads of {}, expected at most {} {}; {}", model.family,
              head_size, device.max_head_size, device.where, device.instead);
  }
}

}  // namespace swiftprune
