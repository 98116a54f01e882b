#include "swiftprune/pipeline/plan.h"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json_numbers.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/model/stored_weights.h"

namespace swiftprune {
namespace {

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

void check_sparsity(double sparsity, const std::string& where) {
  if (!(sparsity >= 0.0 && sparsity < 1.0))
    bad_usage("{}: found {}, expected 0 <= sparsity < 1", where, sparsity);
}

void check_low_rank(const PlanEntry& entry) {
  if (entry.low_rank == 0) return;
  const std::int64_t most = std::min(entry.rows, entry.cols);
  if (entry.low_rank < 0 || entry.low_rank > most) {
    bad_usage("{}: low rank: found {}, expected 0 (none) to {}, the smaller side of [{}, {}]", entry.tensor,
              entry.low_rank, most, entry.rows, entry.cols);
  }
  if (!entry.refine.facts().finds_low_rank) {
    bad_usage("{}: low rank: found {} with refine {}, expected {} alone", entry.tensor, entry.low_rank,
              format(entry.refine), fmt::join(low_rank_refiners(), " or "));
  }
  if (entry.grid) {
    bad_usage("{}: low rank: found {} with quantize {}, expected one of them", entry.tensor, entry.low_rank,
              format(*entry.grid));
  }
  if (entry.expert >= 0) {
    bad_usage("{}: low rank: found {} of an expert, expected 0: no adapter format for experts is written",
              entry.tensor, entry.low_rank);
  }
}

// Checks that the pattern fits the tensor and its refinement, before any work is done.
void check_entry(const PlanEntry& entry) {
  if (!entry.prune) return;
  const RefineFacts facts = entry.refine.facts();
  if (!entry.observed && stat_needs(entry).any()) {
    bad_usage(
        "{}: prune: found a score or refinement that reads calibration text, expected none: the inputs of "
        "this "
        "linear are not observed (latent attention); leave it as it is, or use score magnitude, refine none",
        entry.tensor);
  }
  check_pattern(facts, entry.pattern, entry.tensor);
  if (entry.grid) {
    if (!facts.finds_grid) {
      bad_usage("{}: quantize: found {} with refine {}, expected one that ends with {}", entry.tensor,
                format(*entry.grid), format(entry.refine), fmt::join(grid_refiners(), ", "));
    }
    check_grid(*entry.grid, entry.cols, entry.tensor);
  } else if (facts.needs_grid) {
    bad_usage("{}: refine: found {} without a grid to round to; add --quantize int4, say", entry.tensor,
              format(entry.refine));
  }
  check_low_rank(entry);
  check_target(entry.target(PruneTarget::Rounding::kFloor), entry.rows, entry.cols);
}

std::optional<QuantGrid> grid_or_none(const std::string& text, std::string_view where) {
  return text == "none" ? std::nullopt : std::optional(parse_grid(text, where));
}

[[noreturn]] void no_match(std::string_view flag, const std::string& pattern, const Plan& plan) {
  bad_usage(
      "{}: '{}' matches no linear of the model, expected a shell pattern such as '{}' or '*.layers.0.*'",
      flag, pattern, plan.entries.front().tensor);
}

void skip_matches(const std::string& pattern, Plan& plan) {
  bool found = false;
  for (PlanEntry& entry : plan.entries) {
    if (!matches(pattern, entry.tensor)) continue;
    found = true;
    entry.prune = false;
  }
  if (!found) no_match("--skip", pattern, plan);
}

// "key=value,key=value"
std::vector<std::pair<std::string, std::string>> parse_settings(const std::string& settings) {
  std::vector<std::pair<std::string, std::string>> result;
  int depth = 0;  // commas in brackets belong to a value: "admm(20,15)"
  std::string part;
  const auto finish = [&] {
    const std::size_t equals = part.find('=');
    if (equals == std::string::npos)
      bad_usage("--override: found '{}', expected settings such as sparsity=0.3,refine=none", settings);
    result.emplace_back(part.substr(0, equals), part.substr(equals + 1));
    part.clear();
  };
  for (const char c : settings) {
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    if (c == ',' && depth == 0) {
      finish();
    } else {
      part += c;
    }
  }
  finish();
  return result;
}

void override_entry(const std::vector<std::pair<std::string, std::string>>& settings, PlanEntry& entry) {
  bool sparsity_given = false;
  for (const auto& [key, value] : settings) {
    if (key == "pattern") {
      entry.pattern = parse_pattern(value);
    } else if (key == "sparsity") {
      char* end = nullptr;
      entry.sparsity = std::strtod(value.c_str(), &end);
      if (value.empty() || *end != '\0')
        bad_usage("--override: sparsity: found '{}', expected a number", value);
      check_sparsity(entry.sparsity, "--override: sparsity");
      sparsity_given = true;
    } else if (key == "score") {
      entry.score = parse_score(value);
    } else if (key == "refine") {
      entry.refine = parse_refine(value);
    } else if (key == "quantize") {
      entry.grid = grid_or_none(value, "--override: quantize");
    } else if (key == "prune") {
      if (value != "yes" && value != "no")
        bad_usage("--override: prune: found '{}', expected yes or no", value);
      entry.prune = value == "yes";
    } else if (key == "low_rank") {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), entry.low_rank);
      if (error != std::errc() || end != value.data() + value.size())
        bad_usage("--override: low_rank: found '{}', expected a whole number", value);
    } else {
      bad_usage(
          "--override: found '{}', expected sparsity, pattern, score, refine, quantize, low_rank or prune",
          key);
    }
    entry.fixed |= key == "pattern" || key == "sparsity";
    entry.fixed_grid |= key == "quantize";
  }
  if (sparsity_given && contradicts(entry.pattern, entry.sparsity)) {
    bad_usage("--override: sparsity {} contradicts the pattern {}, which fixes it; leave one of them out",
              entry.sparsity, format(entry.pattern));
  }
}

}  // namespace

StatNeeds stat_needs(const PlanEntry& entry) {
  if (!entry.prune) return {};
  const StatNeeds scores = entry.refine.facts().uses_mask ? entry.score.needs() : StatNeeds{};
  StatNeeds budgets;
  budgets.energy = entry.has_row_budgets();
  budgets.sample = entry.has_row_budgets() && entry.input == LinearInput::kMlp;
  return scores | budgets | entry.refine.needs();
}

std::string_view name_of(Permute permute) {
  return permute == Permute::kNone ? "none" : permute == Permute::kMlp ? "mlp" : "all";
}

Permute parse_permute(std::string_view text, std::string_view where) {
  for (const Permute permute : {Permute::kNone, Permute::kMlp, Permute::kAll}) {
    if (text == name_of(permute)) return permute;
  }
  bad_usage("{}: found '{}', expected none, mlp or all", where, text);
}

bool contradicts(const Pattern& pattern, double sparsity) {
  return pattern.kind == Pattern::Kind::kNofM &&
         std::abs(sparsity - (1.0 - static_cast<double>(pattern.n) / static_cast<double>(pattern.m))) > 1e-3;
}

void apply_override(const std::string& name_pattern, const std::string& settings, Plan& plan) {
  const auto parsed = parse_settings(settings);
  bool found = false;
  for (PlanEntry& entry : plan.entries) {
    if (!matches(name_pattern, entry.tensor)) continue;
    found = true;
    override_entry(parsed, entry);
    check_entry(entry);
  }
  if (!found) no_match("--override", name_pattern, plan);
}

double PlanEntry::asked_sparsity() const {
  return prune ? target_sparsity(target(PruneTarget::Rounding::kFloor)) : 0.0;
}

PruneTarget PlanEntry::target(PruneTarget::Rounding rounding) const {
  PruneTarget target;
  target.pattern = pattern;
  target.sparsity = sparsity;
  target.rounding = rounding;
  target.tensor = tensor;
  return target;
}

double Plan::sparsity() const {
  double pruned = 0.0;
  double total = 0.0;
  for (const PlanEntry& entry : entries) {
    const double weights = entry.num_weights();
    pruned += entry.asked_sparsity() * weights;
    total += weights;
  }
  return total > 0.0 ? pruned / total : 0.0;
}

bool Plan::quantizes() const {
  return std::any_of(entries.begin(), entries.end(),
                     [](const PlanEntry& entry) { return entry.prune && entry.grid.has_value(); });
}

std::int64_t Plan::low_rank() const {
  std::int64_t most = 0;
  for (const PlanEntry& entry : entries) most = std::max(most, entry.prune ? entry.low_rank : 0);
  return most;
}

std::int64_t default_group(const ModelConfig& model) {
  const std::vector<BlockWeight> weights = block_weights(model);
  for (const std::int64_t group : {QuantGrid{}.group, kQuantGroups[0]}) {
    if (std::ranges::all_of(weights, [&](const BlockWeight& w) { return w.tensors.inputs % group == 0; }))
      return group;
  }
  return 0;
}

Plan uniform_plan(const Model& model, const PlanDefaults& defaults, const std::vector<std::string>& skip) {
  check_sparsity(defaults.sparsity, "--sparsity");
  Plan plan;
  for (const BlockWeight& weight : block_weights(model.config())) {
    const LinearTensors& linear = weight.tensors;
    plan.entries.push_back({weight.name(), weight.layer, linear.input, linear.outputs, linear.inputs, true,
                            defaults.pattern, defaults.sparsity, false, false, defaults.score,
                            defaults.refine, defaults.grid, weight.expert});
    PlanEntry& entry = plan.entries.back();
    entry.observed = is_observed(linear, model.config().hidden_size);
    entry.first_input = linear.first_input;
    entry.low_rank = defaults.low_rank;
    entry.prune = entry.observed || !stat_needs(entry).any();
  }
  for (const std::string& pattern : skip) skip_matches(pattern, plan);
  for (const PlanEntry& entry : plan.entries) check_entry(entry);
  return plan;
}

void apply_plan_file(const std::string& path, Plan& plan) { apply_plan(read_json_file(path), path, plan); }

void apply_plan(const nlohmann::json& document, const std::string& path, Plan& plan) {
  if (document.is_object() && document.contains("layers")) {
    bad_input("{}: found a plan of layers, which shrink --plan runs; expected one of linears", path);
  }
  if (!document.is_object() || !document.contains("tensors") || !document["tensors"].is_array()) {
    bad_input("{}: expected an object with an array 'tensors'; a run writes such a file as plan.json", path);
  }
  if (document.contains("rounding")) {
    const nlohmann::json& rounding = document["rounding"];
    if (rounding != "row" && rounding != "matrix") {
      bad_input("{}: rounding: found {}, expected \"row\" or \"matrix\"", path, rounding.dump());
    }
    plan.rounding = rounding == "row" ? PruneTarget::Rounding::kFloor : PruneTarget::Rounding::kExactTotal;
  }
  if (document.contains("permute")) {
    const nlohmann::json& permute = document["permute"];
    if (!permute.is_string())
      bad_input("{}: permute: found {}, expected none, mlp or all", path, permute.dump());
    plan.permute = parse_permute(permute.get<std::string>(), fmt::format("{}: permute", path));
  }
  std::map<std::string, PlanEntry*> by_name;
  for (PlanEntry& entry : plan.entries) by_name[entry.tensor] = &entry;
  std::set<std::string> seen;
  std::size_t index = 0;
  for (const nlohmann::json& item : document["tensors"]) {
    const std::string where = fmt::format("{}: tensors[{}]", path, index++);
    try {
      const std::string name = item.at("name").get<std::string>();
      const auto it = by_name.find(name);
      if (it == by_name.end()) bad_input("{}: found name '{}', expected a linear of this model", where, name);
      if (!seen.insert(name).second)
        bad_input("{}: '{}' stands here a second time, expected one entry a tensor", where, name);
      PlanEntry& entry = *it->second;
      if (item.contains("shape")) {
        const std::vector<std::int64_t> shape = whole_numbers(item["shape"]);
        if (shape != std::vector<std::int64_t>{entry.rows, entry.cols}) {
          bad_input("{}: shape: found [{}] for '{}', expected [{}, {}]; the plan is of another model", where,
                    fmt::join(shape, ", "), name, entry.rows, entry.cols);
        }
      }
      entry.prune = item.value("prune", entry.prune);
      if (item.contains("pattern")) entry.pattern = parse_pattern(item["pattern"].get<std::string>());
      if (item.contains("sparsity")) {
        const double sparsity = item["sparsity"].get<double>();
        if (!(sparsity >= 0.0 && sparsity < 1.0)) {
          bad_input("{}: found sparsity {}, expected 0 <= sparsity < 1", where, sparsity);
        }
        if (contradicts(entry.pattern, sparsity)) {
          bad_input("{}: sparsity {} contradicts the pattern {}, which fixes it; leave one of them out",
                    where, sparsity, format(entry.pattern));
        }
        entry.sparsity = sparsity;
      }
      entry.row_budgets = item.value("row_budgets", entry.row_budgets);
      if (entry.row_budgets && entry.pattern.kind != Pattern::Kind::kRow) {
        bad_input("{}: row_budgets: found true with the pattern {}, expected the pattern row", where,
                  format(entry.pattern));
      }
      if (item.contains("score")) entry.score = parse_score(item["score"].get<std::string>());
      if (item.contains("refine")) entry.refine = parse_refine(item["refine"].get<std::string>());
      if (item.contains("quantize"))
        entry.grid = grid_or_none(item["quantize"].get<std::string>(), fmt::format("{}: quantize", where));
      if (item.contains("low_rank")) {
        if (!item["low_rank"].is_number_integer())
          bad_input("{}: low_rank: found {}, expected a whole number", where, json_excerpt(item["low_rank"]));
        entry.low_rank = item["low_rank"].get<std::int64_t>();
      }
      check_entry(entry);
    } catch (const nlohmann::json::exception& error) {
      bad_input(
          "{}: {}; expected name, shape, prune, pattern, sparsity, row_budgets, score, refine, quantize, "
          "low_rank",
          where, error.what());
    } catch (const Error& error) {
      const std::string_view message = error.what();
      if (message.starts_with(path)) throw;
      bad_input("{}: {}", where, message);
    }
  }
}

nlohmann::ordered_json to_json(const Plan& plan) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const PlanEntry& entry : plan.entries) {
    nlohmann::ordered_json item = {{"name", entry.tensor}, {"prune", entry.prune}};
    if (entry.prune) {
      item["pattern"] = format(entry.pattern);
      if (entry.pattern.kind != Pattern::Kind::kNofM) item["sparsity"] = entry.sparsity;
      if (entry.has_row_budgets()) item["row_budgets"] = true;
      item["score"] = format(entry.score);
      item["refine"] = format(entry.refine);
      if (entry.grid) item["quantize"] = format(*entry.grid);
      if (entry.low_rank > 0) item["low_rank"] = entry.low_rank;
    }
    tensors.push_back(std::move(item));
  }
  const bool exact = plan.rounding == PruneTarget::Rounding::kExactTotal;
  nlohmann::ordered_json document = {{"rounding", exact ? "matrix" : "row"}};
  if (plan.permute != Permute::kNone) document["permute"] = name_of(plan.permute);
  document["tensors"] = std::move(tensors);
  return document;
}

}  // namespace swiftprune
