#include "swiftprune/pipeline/plan.h"

#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <set>

#include "swiftprune/checkpoint/json_file.h"
#include "swiftprune/core/error.h"
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/scoring/scorer.h"

namespace swiftprune {
namespace {

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

void check_sparsity(double sparsity, const std::string& where) {
  if (!(sparsity >= 0.0 && sparsity < 1.0))
    bad_usage("{}: found {}, expected 0 <= sparsity < 1", where, sparsity);
}

// Checks that the parts exist and that the pattern fits, before any work is done.
void check_entry(const PlanEntry& entry) {
  if (!entry.prune) return;
  make_scorer(entry.score);
  make_refiner(entry.refine);
  check_target(entry.target(PruneTarget::Rounding::kFloor), entry.rows, entry.cols);
}

void skip_matches(const std::string& pattern, Plan& plan) {
  bool found = false;
  for (PlanEntry& entry : plan.entries) {
    if (!matches(pattern, entry.tensor)) continue;
    found = true;
    entry.prune = false;
  }
  if (!found) {
    bad_usage(
        "--skip: '{}' matches no linear of the model, expected a shell pattern such as '{}' or "
        "'*.layers.0.*'",
        pattern, plan.entries.front().tensor);
  }
}

}  // namespace

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
    const double weights = static_cast<double>(entry.rows) * static_cast<double>(entry.cols);
    pruned += entry.asked_sparsity() * weights;
    total += weights;
  }
  return total > 0.0 ? pruned / total : 0.0;
}

Plan uniform_plan(const Model& model, const PlanDefaults& defaults, const std::vector<std::string>& skip) {
  check_sparsity(defaults.sparsity, "--sparsity");
  Plan plan;
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    for (const LinearTensors& linear : linears_of(model.config().blocks[static_cast<std::size_t>(layer)])) {
      plan.entries.push_back({linear.name + ".weight", layer, linear.input, linear.outputs, linear.inputs,
                              true, defaults.pattern, defaults.sparsity, defaults.score, defaults.refine});
    }
  }
  for (const std::string& pattern : skip) skip_matches(pattern, plan);
  for (const PlanEntry& entry : plan.entries) check_entry(entry);
  return plan;
}

void apply_plan_file(const std::string& path, Plan& plan) {
  const nlohmann::json document = read_json_file(path);
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
      entry.prune = item.value("prune", entry.prune);
      if (item.contains("pattern")) entry.pattern = parse_pattern(item["pattern"].get<std::string>());
      if (item.contains("sparsity")) {
        const double sparsity = item["sparsity"].get<double>();
        if (!(sparsity >= 0.0 && sparsity < 1.0)) {
          bad_input("{}: found sparsity {}, expected 0 <= sparsity < 1", where, sparsity);
        }
        const bool fixed = entry.pattern.kind == Pattern::Kind::kNofM;
        if (fixed && std::abs(sparsity - (1.0 - static_cast<double>(entry.pattern.n) /
                                                    static_cast<double>(entry.pattern.m))) > 1e-3) {
          bad_input("{}: sparsity {} contradicts the pattern {}, which fixes it; leave one of them out",
                    where, sparsity, format(entry.pattern));
        }
        entry.sparsity = sparsity;
      }
      entry.score = item.value("score", entry.score);
      entry.refine = item.value("refine", entry.refine);
      check_entry(entry);
    } catch (const nlohmann::json::exception& error) {
      bad_input("{}: {}; expected name, prune, pattern, sparsity, score, refine", where, error.what());
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
      item["score"] = entry.score;
      item["refine"] = entry.refine;
    }
    tensors.push_back(std::move(item));
  }
  const bool exact = plan.rounding == PruneTarget::Rounding::kExactTotal;
  return {{"rounding", exact ? "matrix" : "row"}, {"tensors", std::move(tensors)}};
}

}  // namespace swiftprune
