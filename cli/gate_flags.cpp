#include "gate_flags.h"

#include <filesystem>
#include <memory>
#include <span>

#include <fmt/format.h>

#include "model_text.h"
#include "swiftprune/checkpoint/model_card.h"
#include "swiftprune/core/error.h"
#include "swiftprune/evaluation/evaluation_text.h"

namespace swiftprune::cli {

void add_gate_flags(CLI::App& command, GateLimits& limits) {
  command
      .add_option("--max-perplexity-ratio", limits.max_perplexity_ratio,
                  "Gate: perplexity at most so many times the dense model's; exit code 5 when a gate fails")
      ->check(within(option_values::kMaxPerplexityRatio));
  command
      .add_option("--min-top1", limits.min_top1,
                  "Gate: share of tokens (0 to 1) whose likeliest next token stays the same")
      ->check(within(option_values::kMinTop1));
  command.add_option("--max-kl", limits.max_kl, "Gate: mean divergence from the dense model, nats a token")
      ->check(within(option_values::kMaxKl));
}

void add_answer_gate_flags(CLI::App& command, GateLimits& limits) {
  command
      .add_option(
          "--max-loops", limits.max_loops,
          "Gate, with --prompts: share of answers (0 to 1) that end in a loop where the dense model's do not")
      ->check(within(option_values::kMaxLoops));
  command
      .add_option("--max-length-change", limits.max_length_change,
                  "Gate, with --prompts: change of the answers' mean length, as a share of the dense model's")
      ->check(within(option_values::kMaxLengthChange));
  command
      .add_option(
          "--min-exact", limits.min_exact,
          "Gate, with --prompts whose lines have an \"answer\": share (0 to 1) that is answered right")
      ->check(within(option_values::kMinExact));
}

void require_passed(const ComparisonReport& report) {
  if (report.passed()) return;
  const GateResult& first = report.gates.front();
  fail(ErrorKind::kGate, "{}: gate {} failed: found {:.4f}, limit {:.4f}", first.model, first.gate,
       first.found, first.limit);
}

void add_prune_gate_flags(CLI::App& command, PruneGate& gate) {
  command.add_option(
      "--gate", gate.text,
      "Text (.txt, .jsonl, .u16, .u32) to compare the result with the dense model on, against the "
      "limits below");
  command.add_option("--gate-windows", gate.windows, "With --gate: windows of --seqlen tokens (0: all)")
      ->capture_default_str()
      ->check(within(option_values::kWindows));
  add_gate_flags(command, gate.limits);
}

void check(const PruneGate& gate) {
  if (gate.text.empty() && gate.limits.on_text()) {
    bad_usage(
        "gates (--max-perplexity-ratio, --min-top1, --max-kl): found no measurement, expected --gate TEXT");
  }
  if (!gate.text.empty() && !gate.limits.on_text()) {
    bad_usage("--gate: found no limit, expected --max-perplexity-ratio, --min-top1 or --max-kl");
  }
}

void run_prune_gate(const PruneGate& gate, const PruneGateRun& run, Device& device, Communicator& ranks) {
  if (gate.text.empty()) return;
  bool written = ranks.is_first();
  ranks.broadcast(0, std::as_writable_bytes(std::span(&written, 1)));  // others come here before
  std::int64_t blind = std::filesystem::exists(run.pruned) ? 0 : 1;
  add_counts(ranks, std::span(&blind, 1));
  if (blind > 0 && !ranks.is_first()) return;
  Communicator& measuring = blind > 0 ? alone() : ranks;
  const auto dense = Model::open(run.dense), pruned = Model::open(run.pruned, run.adapter);
  EvaluationTexts flags;
  flags.files = {gate.text};
  flags.field = run.field;
  flags.seqlen = run.seqlen;
  flags.windows = gate.windows;
  const ComparisonReport report = [&] {
    ComparisonInput input;
    input.models = {dense.get(), pruned.get()};
    input.folders = {run.dense, run.pruned};
    read_texts(*dense, flags, notes_to(run.common), input);
    input.error_tokens = 0;
    input.gates = gate.limits;
    input.forward = run.forward;
    input.num_worst = 0;
    return compare(input, device, measuring);
  }();
  if (!ranks.is_first()) return;
  add_measured_quality(run.pruned,
                       fmt::format("On `{}`: {}", std::filesystem::path(gate.text).filename().string(),
                                   verdict_of(report).detail));
  if (!run.common.quiet) {
    clear_progress();
    // The first that failed is the error's.
    const bool failed = !report.passed();
    for (const GateResult& result : std::span(report.gates).subspan(failed ? 1 : 0))
      fmt::print(stderr, "{}\n", result.line());
  }
  require_passed(report);
}

}  // namespace swiftprune::cli
