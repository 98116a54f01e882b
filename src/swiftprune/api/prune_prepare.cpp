// What a pruning is to do, decided before anything is computed, and the text that it reads.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "swiftprune/api/prune_job.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/pipeline/capabilities.h"

namespace swiftprune {
namespace {

// What a choice of bits leaves no room for.
void check_with_bits(const PruneJob& job) {
  if (job.sparsity_given) {
    bad_usage(
        "--bits: found with --sparsity {}, but zeros and bits are chosen together; leave --sparsity out, or "
        "use swiftprune quantize --bits, which makes no zeros",
        job.sparsity);
  }
  if (job.allocate == "none") {
    bad_usage("--bits: found with --allocate none, expected sensitivity, which the bits are chosen by");
  }
  if (!job.plan_file.empty())
    bad_usage("--bits: found with --plan, which fixes bits and zeros; leave one of them out");
  const Pattern::Kind kind = parse_pattern(job.pattern).kind;
  if (kind != Pattern::Kind::kRow && kind != Pattern::Kind::kLayer)
    bad_usage("--bits: found with --pattern {}, expected row or layer, whose zeros may be any number",
              job.pattern);
}

// What a linear was given by name stays as it is; zeros of its own need a grid of its own.
void fix_overridden(Plan& plan) {
  for (PlanEntry& entry : plan.entries) {
    if (entry.prune && entry.fixed && !entry.fixed_grid) {
      bad_usage(
          "--override: {}: found a sparsity or pattern with --bits, expected its grid as well: "
          "'sparsity=0.5,quantize=int4'",
          entry.tensor);
    }
    entry.fixed |= entry.fixed_grid;
  }
}

Plan make_plan(const Model& model, const PruneJob& job, const Method& method) {
  if (job.bits) check_with_bits(job);
  PlanDefaults defaults;
  defaults.pattern = parse_pattern(job.pattern);
  defaults.sparsity = job.bits ? 0.0 : job.sparsity;
  const bool n_m = defaults.pattern.kind == Pattern::Kind::kNofM;
  if (job.sparsity_given && contradicts(defaults.pattern, job.sparsity)) {
    bad_usage("--sparsity: found {}, but --pattern {} fixes it; leave --sparsity out", job.sparsity,
              job.pattern);
  }
  defaults.score = !job.score.empty() ? parse_score(job.score) : n_m ? method.n_m_score : method.score;
  defaults.refine = !job.refine.empty() ? parse_refine(job.refine) : method.refine;
  if (const std::vector<QuantGrid> grids = grids_of(job, model.config()); !grids.empty())
    defaults.grid = grids.front();
  defaults.low_rank = job.low_rank;
  if (job.allocate == "sensitivity") {
    if (!job.plan_file.empty())
      bad_usage("--allocate: found sensitivity, but --plan fixes the sparsities; leave one of them out");
    if (n_m && defaults.pattern.m < kLeastAllocatedGroup) {
      bad_usage(
          "--allocate: found sensitivity with --pattern {}, expected an unstructured pattern or N:M with M "
          ">= {}",
          job.pattern, kLeastAllocatedGroup);
    }
  }
  Plan plan = uniform_plan(model, defaults, job.skip);
  if (!job.plan_file.empty()) apply_plan_file(job.plan_file, plan);
  for (const auto& [name_pattern, settings] : job.overrides) apply_override(name_pattern, settings, plan);
  if (job.bits) fix_overridden(plan);
  if (!job.permute.empty()) plan.permute = parse_permute(job.permute, "--permute");
  return plan;
}

// Nothing is measured of experts: a model that has them is pruned alike everywhere, unless a plan says otherwise.
bool allocates(const PruneJob& job, const Method& method, const Model& model) {
  if (job.bits) {
    check_without_experts(model.config(), "--bits",
                          "leave it out: --quantize int4 puts every linear on one grid");
    return true;
  }
  if (job.allocate == "sensitivity") {
    check_without_experts(
        model.config(), "--allocate sensitivity",
        "leave it out: the sparsity is then the same everywhere; --plan and --override set others");
  }
  if (!job.allocate.empty()) return job.allocate == "sensitivity";
  if (model.config().has_experts()) return false;
  const Pattern::Kind kind = parse_pattern(job.pattern).kind;
  return method.allocates && job.sparsity > 0.0 && job.plan_file.empty() &&
         (kind == Pattern::Kind::kRow || kind == Pattern::Kind::kLayer);
}

std::int64_t parse_windows(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > (1 << 20))
    bad_usage("--windows: found '{}', expected auto or a number from 1 to {}", text, 1 << 20);
  return value;
}

}  // namespace

std::vector<QuantGrid> grids_of(const PruneJob& job, const ModelConfig& model) {
  if (job.quantize.empty() && !job.bits && job.zeros) {
    if (job.group.empty() && !job.asymmetric) return {};
    bad_usage("{}: found without --quantize, which it is about; add --quantize int4, say",
              job.group.empty() ? "--asymmetric" : "--group");
  }
  std::vector<QuantGrid> grids;
  for (const int bits : kQuantBits) {
    if (job.group.empty()) {
      grids.push_back({.bits = bits, .group = default_group(model), .asymmetric = job.asymmetric});
    } else {
      grids.push_back(parse_grid(
          fmt::format("int{}({}{})", bits, job.group, job.asymmetric ? ",asymmetric" : ""), "--quantize"));
    }
  }
  const std::string names = !job.quantize.empty() ? job.quantize : job.bits ? "" : "int4";
  if (names.empty()) return grids;
  std::set<int> wanted;
  for (std::size_t first = 0; first <= names.size();) {
    const std::size_t end = std::min(names.find(',', first), names.size());
    wanted.insert(parse_grid(names.substr(first, end - first), "--quantize").bits);
    first = end + 1;
  }
  if (wanted.size() > 1 && !job.bits)
    bad_usage("--quantize: found {}, expected one, or --bits, which chooses among them", names);
  std::erase_if(grids, [&](const QuantGrid& grid) { return !wanted.contains(grid.bits); });
  return grids;
}

PreparedPrune prepare(const PruneJob& job, const Model& model, Device& device, ComputeType compute) {
  check_not_packed(model);
  PreparedPrune prepared;
  const Method& method = method_by_name(job.method);
  prepared.method = &method;
  prepared.plan = make_plan(model, job, method);
  prepared.allocates = allocates(job, method, model);
  if (job.bits) {
    prepared.bits = BitsGoal{.mean = *job.bits, .bits = {}, .zeros = job.zeros};
    for (const QuantGrid& grid : grids_of(job, model.config())) prepared.bits->bits.push_back(grid.bits);
    check_bits(*prepared.bits, prepared.plan);
  }

  PruneOptions& options = prepared.options;
  options.select = job.select.empty() ? method.select : parse_select(job.select);
  options.selector.lambda = job.lambda;
  options.selector.alpha = job.alpha;
  options.selector.beta = job.beta;
  options.propagation = method.propagation;
  if (!job.propagate.empty())
    options.propagation = job.propagate == "dense" ? Propagation::kDense : Propagation::kPruned;
  options.compute = compute;
  options.min_expert_tokens = job.min_expert_tokens;
  options.progress = current_run().progress;
  device.check_plan(model, prepared.plan, options);

  const bool quantizes = prepared.plan.quantizes();
  prepared.packs = quantizes && job.store != "dense";
  if (!job.store.empty() && !quantizes)
    bad_usage("--store: found {} without --quantize, which it is about", job.store);
  if (!job.embeddings.empty()) {
    if (!prepared.packs) {
      bad_usage("--quantize-embeddings: found {} with what is no packed model; {}", job.embeddings,
                quantizes ? "leave --store dense out" : "add --quantize, or use swiftprune pack");
    }
    prepared.tables.table_bits = job.embeddings == "int8" ? 8 : 4;
    prepared.tables.tables = tables_of(model.config());
  }
  return prepared;
}

Allocation allocate(PreparedPrune& prepared, const Model& model, Device& device, const TokenWindows& windows,
                    Communicator& ranks) {
  const auto begin = std::chrono::steady_clock::now();
  Sensitivities measured = device.measure_sensitivities(
      model, prepared.plan, windows, prepared.options.compute, prepared.options.progress, ranks);
  prepared.options.readers = std::move(measured.readers);
  if (prepared.bits) {
    allocate_bits(measured.values, *prepared.bits, prepared.plan);
  } else {
    allocate_by_sensitivity(measured.values, prepared.plan);
  }
  return {std::move(measured.values),
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()};
}

std::int64_t counted_windows(const PruneJob& job, const Model& model, const Device& device,
                             const Method& method) {
  if (!job.windows.empty() && job.windows != "auto") return parse_windows(job.windows);
  if (job.calibration.is_self()) return std::max(1, method.windows);  // written token by token
  return device.default_windows(method, model, job.calibration.seqlen);
}

Calibration calibrate(const PruneJob& job, const PreparedPrune& prepared, const Model& model, Device& device,
                      const NoteFn& note) {
  const Method& method = *prepared.method;
  const PruneOptions& options = prepared.options;
  constexpr std::int64_t kMostByItself = 64;  // windows of --windows auto
  Calibration result;
  if (job.windows != "auto") {
    const bool counted = !job.windows.empty();  // only what was asked for is refused when the text is shorter
    const std::int64_t count = counted_windows(job, model, device, method);
    result.windows = calibration_windows(note, model, device, job.calibration, count, !counted,
                                         options.compute, options.progress);
    if (result.windows.num_windows() < count) {
      note(fmt::format("the text fills {} of the {} windows that --method {} takes here",
                       result.windows.num_windows(), count, method.name));
    }
    return result;
  }
  const bool self = job.calibration.is_self();
  result.windows = calibration_windows(note, model, device, job.calibration,
                                       self ? counted_windows(job, model, device, method) : kMostByItself,
                                       true, options.compute, options.progress);
  const double tolerance = calibration_needs(prepared.plan).gram ? kGramTolerance : kScoreTolerance;
  const auto energies = device.input_energies(model, result.windows, options.compute);
  result.stopping = windows_until_stable(model, *energies, result.windows, tolerance, options.progress);
  result.windows.ids.resize(static_cast<std::size_t>(result.stopping->windows * job.calibration.seqlen));
  return result;
}

}  // namespace swiftprune
