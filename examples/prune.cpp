// prune MODEL OUT [TEXT]: half of the weights of every linear become zeros, two of every four, by Wanda's score on the
// text, or on text that the model writes itself; with a text its perplexity before and behind.
#include <cstdio>

#include <swiftprune/api/eval_job.h>
#include <swiftprune/api/prune_job.h>
#include <swiftprune/core/version.h>

static_assert(SWIFTPRUNE_VERSION_MAJOR == 0, "this is written for 0.x");

namespace {

int failed(const swiftprune::Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return static_cast<int>(error.kind());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    fmt::print(stderr, "usage: {} MODEL OUT [TEXT]\n", argv[0]);
    return 2;
  }
  swiftprune::JobContext context;
  context.run.progress = [](std::string_view stage, std::int64_t done, std::int64_t total) {
    fmt::print(stderr, "{} {}/{}\n", stage, done, total);
  };
  context.note = [](const std::string& note) { fmt::print(stderr, "note: {}\n", note); };

  swiftprune::PruneJob prune;
  prune.model = argv[1];
  prune.out = argv[2];
  prune.method = "wanda";
  prune.pattern = "2:4";
  prune.windows = "4";
  prune.calibration.seqlen = 64;
  if (argc == 4) prune.calibration.sources = {argv[3]};
  const auto pruned = prune.run(context);
  if (!pruned) return failed(pruned.error());
  fmt::print("{:.0f} % of the weights of {} linears are zero: {}\n", 100.0 * pruned.value().result.sparsity,
             pruned.value().plan.entries.size(), prune.out);
  if (argc == 3) return 0;

  swiftprune::EvalJob eval;
  eval.texts.files = {argv[3]};
  eval.texts.seqlen = 64;
  for (const std::string& model : {prune.model, prune.out}) {
    eval.model = model;
    const auto report = eval.run(context);
    if (!report) return failed(report.error());
    fmt::print("{}: perplexity {:.3f}\n", model, report.value().perplexity());
  }
  return 0;
}
