// swiftprune prune: a checkpoint folder in, a pruned checkpoint folder out.
#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "swiftprune/calibration/self_text.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/pipeline/allocate.h"
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
  std::string allocate = "none";
  std::string calibration = "self";
  std::string field = "text";
  std::int64_t windows = 0;  // 0: the method's
  std::int64_t seqlen = 2048;
  std::uint64_t seed = 0;
  std::string compute = "auto";
  DeviceFlags device;
  std::vector<std::string> skip;
  std::string plan_file;
  std::optional<double> lambda;
  double alpha = 0.125;
  double beta = 0.125;
  bool sparsity_given = false;
};

// Pruned tensors go straight to their place in the output; every other tensor is copied byte for byte.
class CheckpointOutput final : public PruneOutput {
 public:
  CheckpointOutput(const Checkpoint& source, CheckpointWriter& writer) : source_(source), writer_(writer) {}
  void write(const std::string& name, std::span<const float> values) override {
    writer_.write(name, values);
    written_.insert(name);
  }
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override {
    writer_.write_bytes_part(name, first, bytes);
    const std::lock_guard lock(mutex_);
    written_.insert(name);
  }
  void copy_rest() {
    for (const TensorInfo& tensor : source_.tensors()) {
      if (written_.contains(tensor.name)) continue;
      check_interrupt();
      writer_.write_bytes(tensor.name, source_.bytes(tensor));
      source_.release(tensor);
    }
  }

 private:
  const Checkpoint& source_;
  CheckpointWriter& writer_;
  std::mutex mutex_;
  std::set<std::string> written_;
};

Plan make_plan(const Model& model, const PruneFlags& flags, const Method& method) {
  PlanDefaults defaults;
  defaults.pattern = parse_pattern(flags.pattern);
  defaults.sparsity = flags.sparsity;
  const bool n_m = defaults.pattern.kind == Pattern::Kind::kNofM;
  if (n_m && flags.sparsity_given &&
      std::abs(flags.sparsity - (1.0 - static_cast<double>(defaults.pattern.n) /
                                           static_cast<double>(defaults.pattern.m))) > 1e-9) {
    bad_usage("--sparsity: found {}, but --pattern {} fixes it; leave --sparsity out", flags.sparsity,
              flags.pattern);
  }
  defaults.score = !flags.score.empty() ? flags.score : std::string(n_m ? method.n_m_score : method.score);
  defaults.refine = !flags.refine.empty() ? flags.refine : std::string(method.refine);
  if (flags.allocate != "none" && (n_m || !flags.plan_file.empty())) {
    bad_usage("--allocate: found {}, but {} fixes the sparsities; leave one of them out", flags.allocate,
              n_m ? "--pattern " + flags.pattern : "--plan");
  }
  Plan plan = uniform_plan(model, defaults, flags.skip);
  if (!flags.plan_file.empty()) apply_plan_file(flags.plan_file, plan);
  return plan;
}

TokenWindows calibration_windows(const Model& model, const Backend& backend, const PruneFlags& flags,
                                 std::int64_t windows, const PruneOptions& options) {
  model.check_length(flags.seqlen, "--seqlen");
  if (flags.calibration == "self") {
    SelfTextOptions self;
    self.windows = windows;
    self.seqlen = flags.seqlen;
    self.seed = flags.seed;
    self.first_token = first_token(model);
    self.compute = options.compute;
    self.progress = options.progress;
    return self_text(model, backend, self);
  }
  if (holds_ids(flags.calibration)) {
    WindowOptions window_options;
    window_options.seqlen = flags.seqlen;
    window_options.max_windows = windows;
    return windows_of_ids(read_token_ids(flags.calibration, model.config().vocab_size), flags.calibration,
                          window_options);
  }
  const auto tokenizer = Tokenizer::open(model.checkpoint().folder());
  return sample_windows(*tokenizer, read_corpus(flags.calibration, flags.field), windows, flags.seqlen,
                        flags.seed);
}

nlohmann::ordered_json echo(const PruneFlags& f, const Plan& plan) {
  const PlanEntry* first = nullptr;
  for (const PlanEntry& entry : plan.entries) {
    if (entry.prune && first == nullptr) first = &entry;
  }
  nlohmann::ordered_json command = {{"model", f.model},
                                    {"out", f.out},
                                    {"method", f.method},
                                    {"sparsity", f.sparsity},
                                    {"allocate", f.allocate},
                                    {"pattern", f.pattern},
                                    {"calibration", f.calibration},
                                    {"field", f.field},
                                    {"windows", f.windows},
                                    {"seqlen", f.seqlen},
                                    {"seed", f.seed},
                                    {"compute", f.compute},
                                    {"device", f.device.device},
                                    {"skip", f.skip},
                                    {"plan", f.plan_file},
                                    {"alpha", f.alpha},
                                    {"beta", f.beta}};
  if (f.lambda) command["lambda"] = *f.lambda;
  if (first != nullptr) {
    command["score"] = first->score;
    command["refine"] = first->refine;
  }
  return command;
}

void print_summary(const PruneFlags& flags, const PruneResult& result, const CalibrationRecord& calibration,
                   double seconds) {
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
      "time        {:.1f} s: calibrate {:.1f}, score {:.2f}, select {:.2f}, refine {:.1f}, read and write "
      "{:.1f}\n",
      seconds, s.calibrate, s.score, s.select, s.refine, s.load + s.write);
  if (flags.common.quiet) return;
  fmt::print(stderr, "Next: swiftprune verify {} {}\n      swiftprune eval {} --text FILE\n", flags.model,
             flags.out, flags.out);
}

void run(const PruneFlags& flags) {
  apply(flags.common);
  const auto start = std::chrono::steady_clock::now();
  const cuda::DeviceChoice device = cuda::choose_device(flags.device.device);
  const auto backend = make_cpu_backend();
  const Method& method = method_by_name(flags.method);
  const auto model = Model::open(flags.model);
  // Beside a GPU the processor has time for the record's hashes.
  std::future<nlohmann::ordered_json> hashes;
  if (device.use_cuda) {
    hashes = std::async(std::launch::async, [&model] { return model_hashes(model->checkpoint()); });
  }
  Plan plan = make_plan(*model, flags, method);
  const bool allocate = flags.allocate == "sensitivity";

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
  CheckpointWriter writer(flags.out, plan_like(model->checkpoint()));
  TokenWindows windows;
  CalibrationRecord calibration{"none", "", 0, 0, flags.seed};
  if (needs_calibration(plan) || allocate) {
    const std::int64_t count = flags.windows > 0 ? flags.windows : std::max(1, method.windows);
    windows = calibration_windows(*model, *backend, flags, count, options);
    calibration = {flags.calibration, windows.hash(), windows.num_windows(), windows.seqlen, flags.seed};
  }
  if (allocate) {
    allocate_by_sensitivity(
        measure_sensitivities(*model, *backend, plan, windows, options.compute, options.progress), plan);
  }
  CheckpointOutput output(model->checkpoint(), writer);
  const PruneResult result = device.use_cuda ? cuda::prune(*model, plan, windows, options,
                                                           device_options(device, flags.device), output)
                                             : prune(*model, *backend, plan, windows, options, output);
  output.copy_rest();
  const std::string own_files[] = {"swiftprune.json", "plan.json"};
  writer.copy_other_files(model->checkpoint(), own_files);
  const nlohmann::ordered_json record =
      make_record(*model, plan, flags.method, options, calibration, result, echo(flags, plan),
                  hashes.valid() ? hashes.get() : nlohmann::ordered_json());
  writer.write_file("swiftprune.json", record.dump(1) + "\n");
  writer.write_file("plan.json", to_json(plan).dump(1) + "\n");
  writer.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.common.json) {
    print_json(record);
  } else {
    print_summary(flags, result, calibration, seconds);
  }
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
  command
      .add_option("--calibration,--ids", f.calibration,
                  "Text (.txt, .jsonl), token ids (.u16, .u32), or self: text that the model writes itself")
      ->capture_default_str();
  command.add_option("--field", f.field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command.add_option("--windows", f.windows, "Calibration windows (0: the method's)")
      ->check(CLI::Range(0, 1 << 20));
  command.add_option("--seqlen", f.seqlen, "Tokens a window")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 24));
  command.add_option("--seed", f.seed, "Seed of the draws of text")->capture_default_str();
  command.add_option("--score", f.score, "Score, instead of the method's");
  command.add_option("--select", f.select, "Selection, instead of the method's");
  command.add_option("--refine", f.refine,
                     "Refinement, instead of the method's: none, \"pcg(20)\", \"admm(20)+pcg(20)\"");
  command
      .add_option("--propagate", f.propagate, "What the next block sees while calibrating: pruned or dense")
      ->check(CLI::IsMember({"pruned", "dense"}));
  command
      .add_option(
          "--allocate", f.allocate,
          "How the sparsity is spread over the linears: none (the same for all) or sensitivity (those whose "
          "pruning changes the output little lose more)")
      ->capture_default_str()
      ->check(CLI::IsMember({"none", "sensitivity"}));
  command.add_option("--skip", f.skip,
                     "Leave tensors dense: a shell pattern such as '*.down_proj.weight'; repeatable");
  command.add_option("--plan", f.plan_file,
                     "A plan for single tensors; every run writes its own as plan.json");
  command.add_option("--lambda", f.lambda, "With --select ewma: keep scores above mean + lambda * deviation");
  command.add_option("--alpha", f.alpha, "With --select ewma: EWMA weight of the mean")
      ->capture_default_str();
  command.add_option("--beta", f.beta, "With --select ewma: EWMA weight of the deviation")
      ->capture_default_str();
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
