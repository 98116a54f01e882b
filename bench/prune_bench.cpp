// What pruning costs and what it gives, in one run on one machine: `fast` against the Wanda procedure (128
// windows, two forwards, a full sort of every row) and `best` against SparseGPT with 128 windows, all through
// the same pipeline.
//   prune_bench MODEL --calibration C4.u16 --text VALID.u16 [--windows 128] [--eval-windows 8] [--pattern row
//   2:4]
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/choices/sensitivities.h"

namespace {

using namespace swiftprune;
namespace fs = std::filesystem;

struct Candidate {
  std::string name;
  std::string method;
  SelectKind select;
  std::int64_t windows;
  std::size_t reference;  // index of the candidate that its ratios are to
};

struct Outcome {
  StageSeconds seconds;
  double allocate = 0.0;
  double perplexity = 0.0;
  double sparsity = 0.0;
  double score_and_select() const { return seconds.score + seconds.select; }
  double total() const { return seconds.total + allocate; }
};

TokenWindows first_windows(const TokenWindows& all, std::int64_t count) {
  return {all.seqlen, {all.ids.begin(), all.ids.begin() + count * all.seqlen}};
}

Outcome run(const Model& model, const Backend& backend, const Candidate& candidate, const Pattern& pattern,
            double sparsity, const TokenWindows& calibration, std::span<const ScoredWindows> text,
            ComputeType compute) {
  const Method& method = method_by_name(candidate.method);
  const bool n_m = pattern.kind == Pattern::Kind::kNofM;
  Plan plan =
      uniform_plan(model, {pattern, sparsity, n_m ? method.n_m_score : method.score, method.refine}, {});
  const TokenWindows windows = first_windows(calibration, candidate.windows);
  PruneOptions options;
  options.select = candidate.select;
  options.propagation = method.propagation;
  options.compute = compute;
  const fs::path folder = fs::temp_directory_path() / fmt::format("prune_bench-{}", candidate.method);
  fs::remove_all(folder);
  Outcome outcome;
  {
    CheckpointWriter writer(folder, plan_like(model.checkpoint()));
    CheckpointOutput output(model.checkpoint(), writer);
    if (method.allocates && !n_m) {
      const Stopwatch watch(outcome.allocate);
      allocate_by_sensitivity(
          measure_sensitivities(cpu_probe_shop(backend), model, plan, windows, compute, {}).values, plan);
    }
    const PruneResult result = prune(model, backend, plan, windows, options, output);
    outcome.seconds = result.seconds;
    outcome.sparsity = result.sparsity;
    output.copy_rest();
    writer.copy_other_files(model.checkpoint());
    writer.finish();
  }
  ForwardOptions forward;
  forward.compute = compute;
  const auto pruned = Model::open(folder);
  const Model* models[] = {pruned.get()};
  outcome.perplexity =
      perplexity(*pruned, *make_cpu_text_forwards(models, backend, forward), text, {}).perplexity;
  fs::remove_all(folder);
  return outcome;
}

void print(const std::vector<Candidate>& candidates, const std::vector<Outcome>& outcomes,
           const std::string& pattern) {
  fmt::print(
      "\n{}\n\n| method | windows | calibrate s | score + select s | allocate + refine s | total s | "
      "perplexity | "
      "faster in total |\n|---|---|---|---|---|---|---|---|\n",
      pattern);
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const Outcome& o = outcomes[i];
    fmt::print("| {} | {} | {:.2f} | {:.3f} | {:.2f} | {:.2f} | {:.2f} | {} |\n", candidates[i].name,
               candidates[i].windows, o.seconds.calibrate, o.score_and_select(),
               o.allocate + o.seconds.refine, o.total(), o.perplexity,
               candidates[i].reference == i
                   ? "1"
                   : fmt::format("{:.1f}", outcomes[candidates[i].reference].total() / o.total()));
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder, calibration_file, text_file, compute = "bf16";
  std::vector<std::string> patterns = {"row"};
  std::int64_t windows = 128, eval_windows = 8, seqlen = 2048;
  double sparsity = 0.5;
  int threads = 2;
  CLI::App app("Time and quality of pruning against the Wanda and SparseGPT procedures");
  app.add_option("model", folder)->required();
  app.add_option("--calibration", calibration_file, "token ids")->required();
  app.add_option("--text", text_file, "token ids")->required();
  app.add_option("--windows", windows, "of the two references");
  app.add_option("--eval-windows", eval_windows);
  app.add_option("--seqlen", seqlen);
  app.add_option("--sparsity", sparsity);
  app.add_option("--pattern", patterns);
  app.add_option("--compute", compute)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--threads", threads);
  CLI11_PARSE(app, argc, argv);
  try {
    set_num_threads(threads);
    const auto model = Model::open(folder);
    const auto backend = make_cpu_backend();
    const auto read = [&](const std::string& file, std::int64_t count) {
      WindowOptions options;
      options.seqlen = seqlen;
      options.max_windows = count;
      return windows_of_ids(read_token_ids(file, model->config().vocab_size), file, options);
    };
    const TokenWindows calibration = read(calibration_file, windows);
    TokenWindows text_windows = read(text_file, eval_windows);
    const std::vector<ScoredWindows> text = {
        {std::move(text_windows), std::vector<std::int64_t>(static_cast<std::size_t>(eval_windows), 1)}};
    fmt::print("{}, {}, {} threads, {}; windows of {} tokens\n", cpu_model_name(), isa_name(), num_threads(),
               compute, seqlen);
    const std::vector<Candidate> candidates = {
        {"Wanda procedure", "wanda", SelectKind::kSort, windows, 0},
        {"fast", "fast", kDefaultSelector, 1, 0},
        {"SparseGPT procedure", "sparsegpt", kDefaultSelector, windows, 2},
        {"best", "best", kDefaultSelector, std::min<std::int64_t>(8, windows), 2},
        {"best", "best", kDefaultSelector, std::min<std::int64_t>(16, windows), 2}};
    for (const std::string& pattern : patterns) {
      std::vector<Outcome> outcomes;
      for (const Candidate& candidate : candidates) {
        outcomes.push_back(run(*model, *backend, candidate, parse_pattern(pattern), sparsity, calibration,
                               text, compute == "bf16" ? ComputeType::kBF16 : ComputeType::kF32));
      }
      print(candidates, outcomes, pattern);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
