// swiftprune prune: a checkpoint folder in, a pruned checkpoint folder out.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "calibration_text.h"
#include "command.h"
#include "gate_flags.h"
#include "model_text.h"
#include "swiftprune/calibration/stopping.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/pipeline/allocate.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/journal.h"
#include "swiftprune/pipeline/prune.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/scoring/scorer.h"

namespace swiftprune::cli {
namespace {

struct PruneFlags {
  CommonOptions common;
  std::string model;
  std::string out;
  std::string method{kDefaultMethod};
  std::string score, select, refine, propagate;  // empty: the method's
  double sparsity = 0.5;
  std::string pattern = "row";
  std::string allocate;  // empty: the method's
  CalibrationText calibration;
  std::string windows;  // a number, "auto", or empty: the method's
  std::string compute = "auto";
  DeviceFlags device;
  std::vector<std::string> skip;
  std::vector<std::pair<std::string, std::string>> overrides;  // shell pattern of names, settings
  std::string plan_file;
  std::optional<double> lambda;
  double alpha = 0.125;
  double beta = 0.125;
  PruneGate gate;
  bool sparsity_given = false;
  bool resume = false;
};

Plan make_plan(const Model& model, const PruneFlags& flags, const Method& method) {
  PlanDefaults defaults;
  defaults.pattern = parse_pattern(flags.pattern);
  defaults.sparsity = flags.sparsity;
  const bool n_m = defaults.pattern.kind == Pattern::Kind::kNofM;
  if (flags.sparsity_given && contradicts(defaults.pattern, flags.sparsity)) {
    bad_usage("--sparsity: found {}, but --pattern {} fixes it; leave --sparsity out", flags.sparsity,
              flags.pattern);
  }
  defaults.score = !flags.score.empty() ? flags.score : std::string(n_m ? method.n_m_score : method.score);
  defaults.refine = !flags.refine.empty() ? flags.refine : std::string(method.refine);
  if (flags.allocate == "sensitivity") {
    if (!flags.plan_file.empty())
      bad_usage("--allocate: found sensitivity, but --plan fixes the sparsities; leave one of them out");
    if (n_m && defaults.pattern.m < kLeastAllocatedGroup) {
      bad_usage(
          "--allocate: found sensitivity with --pattern {}, expected an unstructured pattern or N:M with M "
          ">= {}",
          flags.pattern, kLeastAllocatedGroup);
    }
  }
  Plan plan = uniform_plan(model, defaults, flags.skip);
  if (!flags.plan_file.empty()) apply_plan_file(flags.plan_file, plan);
  for (const auto& [name_pattern, settings] : flags.overrides) apply_override(name_pattern, settings, plan);
  return plan;
}

std::int64_t parse_windows(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > (1 << 20))
    bad_usage("--windows: found '{}', expected auto or a number from 1 to {}", text, 1 << 20);
  return value;
}

// The windows that the run reads, and for --windows auto what was measured.
struct Calibration {
  TokenWindows windows;
  std::optional<StableWindows> stopping;
};

Calibration calibrate(const Model& model, const Backend& backend, const PruneFlags& flags,
                      const Method& method, const Plan& plan, const PruneOptions& options) {
  constexpr std::int64_t kMostByItself = 64;  // windows of --windows auto
  Calibration result;
  if (flags.windows != "auto") {
    const std::int64_t count =
        flags.windows.empty() ? std::max(1, method.windows) : parse_windows(flags.windows);
    result.windows = calibration_windows(model, backend, flags.calibration, count, false, options.compute,
                                         options.progress);
    return result;
  }
  const bool self = flags.calibration.is_self();
  result.windows = calibration_windows(model, backend, flags.calibration,
                                       self ? std::max(1, method.windows) : kMostByItself, true,
                                       options.compute, options.progress);
  const double tolerance = calibration_needs(plan).gram ? kGramTolerance : kScoreTolerance;
  result.stopping =
      windows_until_stable(model, backend, result.windows, options.compute, tolerance, options.progress);
  result.windows.ids.resize(static_cast<std::size_t>(result.stopping->windows * flags.calibration.seqlen));
  return result;
}

bool allocates(const PruneFlags& flags, const Method& method) {
  if (!flags.allocate.empty()) return flags.allocate == "sensitivity";
  const Pattern::Kind kind = parse_pattern(flags.pattern).kind;
  return method.allocates && flags.plan_file.empty() &&
         (kind == Pattern::Kind::kRow || kind == Pattern::Kind::kLayer);
}

nlohmann::ordered_json echo(const PruneFlags& f, const Plan& plan) {
  const PlanEntry* first = nullptr;
  for (const PlanEntry& entry : plan.entries) {
    if (entry.prune && first == nullptr) first = &entry;
  }
  nlohmann::ordered_json command = {
      {"model", f.model},
      {"out", f.out},
      {"method", f.method},
      {"sparsity", f.sparsity},
      {"allocate", allocates(f, method_by_name(f.method)) ? "sensitivity" : "none"},
      {"pattern", f.pattern},
      {"calibration", f.calibration.sources},
      {"field", f.calibration.field},
      {"windows", f.windows},
      {"seqlen", f.calibration.seqlen},
      {"seed", f.calibration.seed},
      {"compute", f.compute},
      {"device", f.device.device},
      {"skip", f.skip},
      {"plan", f.plan_file},
      {"alpha", f.alpha},
      {"beta", f.beta}};
  for (const auto& [name_pattern, settings] : f.overrides)
    command["overrides"].push_back({{"tensors", name_pattern}, {"settings", settings}});
  if (f.lambda) command["lambda"] = *f.lambda;
  if (first != nullptr) {
    command["score"] = first->score;
    command["refine"] = first->refine;
  }
  return command;
}

void print_summary(const PruneFlags& flags, const PruneResult& result, const CalibrationRecord& calibration,
                   const std::optional<Allocation>& allocation, double seconds) {
  const StageSeconds& s = result.seconds;
  fmt::print("pruned      {}\n", flags.out);
  fmt::print("sparsity    {:.2f} % of the blocks' linears, pattern {}\n", 100.0 * result.sparsity,
             flags.pattern);
  fmt::print("method      {} ({})\n", flags.method,
             result.weights_changed ? "kept weights refined" : "kept weights unchanged");
  if (calibration.windows > 0) {
    fmt::print("calibration {} windows of {} tokens from {}\n", calibration.windows, calibration.seqlen,
               calibration.source);
  }
  fmt::print(
      "time        {:.1f} s: {}calibrate {:.1f}, score {:.2f}, select {:.2f}, refine {:.1f}, read and write "
      "{:.1f}\n",
      seconds, allocation ? fmt::format("allocate {:.1f}, ", allocation->seconds) : "", s.calibrate, s.score,
      s.select, s.refine, s.load + s.write);
  if (flags.common.quiet) return;
  fmt::print(stderr, "Next: swiftprune verify {} {}\n      swiftprune eval {} --text FILE\n", flags.model,
             flags.out, flags.out);
}

// What tells a model from a changed one without reading it whole.
nlohmann::ordered_json file_stamps(const Checkpoint& checkpoint) {
  nlohmann::ordered_json stamps;
  for (const std::string& file : model_files(checkpoint)) {
    const std::filesystem::path path = checkpoint.folder() / file;
    stamps[file] = {std::filesystem::file_size(path),
                    std::filesystem::last_write_time(path).time_since_epoch().count()};
  }
  return stamps;
}

std::optional<UnfinishedRun> find_unfinished(const PruneFlags& flags, const CheckpointWriter& writer,
                                             const nlohmann::ordered_json& identity) {
  auto unfinished = writer.continues() ? read_journal(writer.temporary_folder()) : std::nullopt;
  if (!unfinished) {
    if (!flags.common.quiet)
      fmt::print(stderr, "--resume: no unfinished run for {}; starting one\n", flags.out);
    return std::nullopt;
  }
  const nlohmann::ordered_json& head = unfinished->head;
  if (!head.is_object() || !head.contains("identity") || !head.contains("plan") ||
      head["identity"] != identity) {
    bad_usage(
        "--resume: the unfinished run for {} had other options, another model or other calibration text; "
        "repeat its command, or leave --resume out to start again",
        flags.out);
  }
  if (!flags.common.quiet)
    fmt::print(stderr, "--resume: going on behind {} finished blocks\n", unfinished->blocks.size());
  return unfinished;
}

PruneResult keeping_blocks(Journal& journal, bool resumable, const std::function<PruneResult()>& prune) {
  try {
    return prune();
  } catch (const Error&) {
    if (resumable) {
      journal.flush();
      fmt::print(stderr, "finished blocks are kept; the same command goes on with them\n");
    }
    throw;
  }
}

void run(PruneFlags& flags) {
  apply(flags.common);
  check(flags.gate);
  const auto start = std::chrono::steady_clock::now();
  const cuda::DeviceChoice device = choose_device(flags.device);
  const auto backend = make_cpu_backend();
  const Method& method = method_by_name(flags.method);
  const auto model = Model::open(flags.model);
  flags.calibration.fit_to(*model);
  // Beside a GPU the processor has time for the record's hashes.
  std::future<nlohmann::ordered_json> hashes;
  if (device.use_cuda) {
    hashes = std::async(std::launch::async, [&model] { return model_hashes(model->checkpoint()); });
  }
  Plan plan = make_plan(*model, flags, method);
  const bool allocate = allocates(flags, method);

  PruneOptions options;
  options.select = flags.select.empty() ? std::string(method.select) : flags.select;
  options.selector.lambda = flags.lambda;
  options.selector.alpha = flags.alpha;
  options.selector.beta = flags.beta;
  options.propagation = method.propagation;
  if (!flags.propagate.empty())
    options.propagation = flags.propagate == "dense" ? Propagation::kDense : Propagation::kPruned;
  options.compute = parse_compute(flags.compute, *backend, device);
  options.progress = terminal_progress(flags.common);

  // The output is claimed before the work, so that a wrong path costs nothing.
  CheckpointWriter writer(flags.out, plan_like(model->checkpoint()),
                          flags.resume ? Leftover::kContinue : Leftover::kDiscard);
  if (flags.resume) writer.keep_when_unfinished();
  Calibration calibrated;
  CalibrationRecord calibration{"none", "", 0, 0, flags.calibration.seed};
  if (needs_calibration(plan) || allocate) {
    calibrated = calibrate(*model, *backend, flags, method, plan, options);
    calibration = {flags.calibration.source(), calibrated.windows.hash(), calibrated.windows.num_windows(),
                   calibrated.windows.seqlen, flags.calibration.seed};
    calibration.stopping = calibrated.stopping;
  }
  const nlohmann::ordered_json identity = {{"version", SWIFTPRUNE_VERSION},
                                           {"command", echo(flags, plan)},
                                           {"model", file_stamps(model->checkpoint())},
                                           {"calibration", calibration.ids}};
  std::optional<Allocation> allocation;
  std::optional<UnfinishedRun> unfinished =
      flags.resume ? find_unfinished(flags, writer, identity) : std::nullopt;
  if (unfinished) {
    options.finished = std::move(unfinished->blocks);
    apply_plan(unfinished->head.at("plan"), Journal::kFileName, plan);
    if (unfinished->head.contains("sensitivities"))
      allocation = Allocation{unfinished->head.at("sensitivities").get<std::vector<double>>(), 0.0};
  } else if (allocate) {
    const auto begin = std::chrono::steady_clock::now();
    allocation.emplace();
    if (device.use_cuda) {
      cuda::DeviceSensitivities measured =
          cuda::measure_sensitivities(*model, plan, calibrated.windows, options.compute,
                                      device_options(device, flags.device), options.progress);
      allocation->sensitivities = std::move(measured.values);
      options.readers = std::move(measured.readers);
    } else {
      allocation->sensitivities = measure_sensitivities(*model, *backend, plan, calibrated.windows,
                                                        options.compute, options.progress);
    }
    allocate_by_sensitivity(allocation->sensitivities, plan);
    allocation->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  const auto sync = [&writer] { writer.sync(); };
  std::optional<Journal> journal;
  if (unfinished) {
    journal.emplace(writer.temporary_folder(), sync);
  } else {
    nlohmann::ordered_json head = {{"identity", identity}, {"plan", to_json(plan)}};
    if (allocation) head["sensitivities"] = allocation->sensitivities;
    journal.emplace(writer.temporary_folder(), head, sync);
  }
  CheckpointOutput output(model->checkpoint(), writer, &*journal, options.finished);
  const PruneResult result = keeping_blocks(*journal, flags.resume, [&] {
    if (!device.use_cuda) return prune(*model, *backend, plan, calibrated.windows, options, output);
    return cuda::prune(*model, plan, calibrated.windows, options, device_options(device, flags.device),
                       output);
  });
  output.copy_rest();
  std::filesystem::remove(writer.temporary_folder() / Journal::kFileName);
  const std::string own_files[] = {"swiftprune.json", "plan.json"};
  writer.copy_other_files(model->checkpoint(), own_files);
  nlohmann::ordered_json record =
      make_record(*model, plan, flags.method, options, calibration, allocation, result, echo(flags, plan),
                  hashes.valid() ? hashes.get() : nlohmann::ordered_json());
  if (auto previous = previous_record(model->checkpoint()); !previous.is_null())
    record["previous"] = std::move(previous);
  writer.write_file("swiftprune.json", record.dump(1) + "\n");
  writer.write_file("plan.json", to_json(plan).dump(1) + "\n");
  writer.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.common.json) {
    print_json(record);
  } else {
    print_summary(flags, result, calibration, allocation, seconds);
  }
  run_prune_gate(flags.gate,
                 {.dense = flags.model,
                  .pruned = flags.out,
                  .field = flags.calibration.field,
                  .seqlen = flags.calibration.seqlen,
                  .forward = {.compute = options.compute, .progress = options.progress},
                  .quiet = flags.common.quiet},
                 *backend);
}

void add_flags(CLI::App& command, PruneFlags& f) {
  command.add_option("MODEL", f.model, "Hugging Face model folder")->required();
  command.add_option("-o,--out", f.out, "Folder to write; must not exist or be empty")->required();
  command.add_option("--method", f.method, "Preset; swiftprune methods lists them")->capture_default_str();
  command.add_option("--sparsity", f.sparsity, "Share of the weights to prune, 0 <= s < 1")
      ->capture_default_str()
      ->each([&f](const std::string&) { f.sparsity_given = true; });
  command
      .add_option("--pattern", f.pattern,
                  "row (unstructured), layer, N:M such as 2:4 (keeps 2 of every 4), block:RxC")
      ->capture_default_str();
  add_calibration_flags(command, f.calibration);
  command.add_option(
      "--windows", f.windows,
      "Calibration windows: a number, or auto: until more text hardly changes the statistics; default: "
      "the method's");
  command.add_option("--score", f.score, "Score, instead of the method's");
  command.add_option("--select", f.select, "Selection, instead of the method's");
  command.add_option("--refine", f.refine,
                     "Refinement, instead of the method's: none, \"pcg(20)\", \"admm(20)+pcg(20)\"");
  command
      .add_option("--propagate", f.propagate, "What the next block sees while calibrating: pruned or dense")
      ->check(CLI::IsMember({"pruned", "dense"}));
  command
      .add_option("--allocate", f.allocate,
                  "How the sparsity is spread: none (the same everywhere) or sensitivity (linears and rows "
                  "whose pruning "
                  "changes the output little lose more); default: sensitivity with --method best and "
                  "unstructured patterns")
      ->check(CLI::IsMember({"none", "sensitivity"}));
  command.add_option("--skip", f.skip,
                     "Leave tensors dense: a shell pattern such as '*.down_proj.weight'; repeatable");
  command
      .add_option(
          "--override", f.overrides,
          "Other settings for some tensors: a shell pattern and settings, such as '*.down_proj.weight' "
          "sparsity=0.4,refine=none; repeatable")
      ->type_size(2);
  command.add_flag(
      "--resume", f.resume,
      "Go on behind the last finished block of a killed run; this run keeps its own when interrupted");
  command.add_option("--plan", f.plan_file,
                     "A plan for single tensors; every run writes its own as plan.json");
  command.add_option("--lambda", f.lambda, "With --select ewma: keep scores above mean + lambda * deviation");
  command.add_option("--alpha", f.alpha, "With --select ewma: EWMA weight of the mean")
      ->capture_default_str();
  command.add_option("--beta", f.beta, "With --select ewma: EWMA weight of the deviation")
      ->capture_default_str();
  add_prune_gate_flags(command, f.gate);
  add_compute_flag(command, f.compute);
  add_device_flags(command, f.device);
  add_common_options(command, f.common);
}

void print_methods(const CommonOptions& common) {
  if (common.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Method& m : methods()) {
      list.push_back({{"name", m.name},
                      {"score", m.score},
                      {"n_m_score", m.n_m_score},
                      {"select", m.select},
                      {"refine", m.refine},
                      {"windows", m.windows},
                      {"propagate", name_of(m.propagation)},
                      {"summary", m.summary},
                      {"source", m.source}});
    }
    print_json({{"methods", list}});
    return;
  }
  fmt::print("Methods (--method): score x selection x refinement, windows of calibration text\n");
  for (const Method& m : methods()) {
    fmt::print("  {:<13} {} x {} x {}, {} windows, propagates {}\n  {:<13} {}{}\n", m.name, m.score, m.select,
               m.refine, m.windows, name_of(m.propagation), "", m.summary,
               m.source.empty() ? "" : fmt::format(" ({})", m.source));
  }
  const auto list = [](std::string_view title, const auto& infos) {
    fmt::print("\n{}\n", title);
    for (const auto& info : infos) fmt::print("  {:<13} {} ({})\n", info.name, info.summary, info.source);
  };
  list("Scores (--score)", scorers());
  list("Selections (--select)", selectors());
  list("Refinements (--refine)", refiners());
}

}  // namespace

void declare_prune(CLI::App& program) {
  auto flags = std::make_shared<PruneFlags>();
  CLI::App* command = program.add_subcommand("prune", "Set weights to zero and write a new checkpoint");
  add_flags(*command, *flags);
  command->footer(
      "Examples:\n"
      "  swiftprune prune ./SmolLM2-135M --out ./SmolLM2-50 --sparsity 0.5 --calibration my_text.txt\n"
      "  swiftprune prune ./SmolLM2-135M --out ./SmolLM2-24 --pattern 2:4 --method fast");
  command->callback([flags] { run(*flags); });

  auto common = std::make_shared<CommonOptions>();
  CLI::App* list = program.add_subcommand(
      "methods", "List methods, scores, selections and refinements with their sources");
  add_common_options(*list, *common);
  list->footer("Example: swiftprune methods");
  list->callback([common] { print_methods(*common); });
}

}  // namespace swiftprune::cli
