// swiftprune compare: what pruning cost, against the dense model, on own text and own prompts.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <span>

#include <fmt/format.h>

#include "calibration_text.h"
#include "command.h"
#include "gate_flags.h"
#include "model_text.h"
#include "option_echo.h"
#include "ranks.h"
#include "swiftprune/api/compare_job.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/pilot/equal_bytes.h"
#include "work_folder.h"

namespace swiftprune::cli {
namespace {

struct CompareFlags {
  CommonOptions common;
  CompareJob job;
  std::string report, markdown;
  bool equal_bytes = false;
  std::string solve = "needed";
  CalibrationText calibration;
  std::int64_t calibration_windows = 16;
  std::string work;
  std::string compute = "f32";
  DeviceFlags device;
  RankFlags ranks;
};

// Names that begin alike are to be told apart.
std::size_t name_width(const ComparisonReport& report) {
  std::size_t width = 20;
  for (const ModelReport& model : report.models) width = std::max(width, model.summary.name.size());
  return width;
}

void print_model(const ModelReport& model, std::size_t width, bool equal_bytes) {
  const ModelSummary& s = model.summary;
  fmt::print("{:<{}} {:>6.1f} % {:>9}", s.name, width, 100.0 * s.sparsity,
             human_bytes(static_cast<double>(model.stored_bytes())));
  if (equal_bytes) fmt::print(" {:>6.2f}", s.bits_per_weight);
  if (model.perplexity) fmt::print(" {:>11.3f}", model.perplexity->perplexity);
  if (const auto& d = model.divergence) {
    const std::string interval =
        d->ratio_interval ? fmt::format("{:.3f}-{:.3f}", d->ratio_interval->low, d->ratio_interval->high)
                          : "";
    fmt::print(" {:>8.3f} {:>15} {:>8.4f} {:>8.3f} {:>6.1f} %", d->perplexity_ratio, interval, d->mean_kl,
               d->p99_kl, 100.0 * d->top1);
  }
  fmt::print("\n");
}

void print_report(const ComparisonReport& report, const CompareFlags& flags) {
  for (const GateResult& gate : report.gates) fmt::print("{}\n", gate.line());
  const Verdict verdict = verdict_of(report);
  fmt::print("{}\n{}\n\n", verdict.headline, verdict.detail);
  const std::size_t width = name_width(report);
  fmt::print("{:<{}} {:>8} {:>9}", "model", width, "zeros", "size");
  if (flags.equal_bytes) fmt::print(" {:>6}", "bits");
  if (!report.text.empty()) {
    fmt::print(" {:>11} {:>8} {:>15} {:>8} {:>8} {:>8}", "perplexity", "ratio", "95 %", "KL", "KL p99",
               "top-1");
  }
  fmt::print("\n");
  for (const ModelReport& model : report.models) print_model(model, width, flags.equal_bytes);
  for (const EqualBytes& equal : report.equal_bytes) fmt::print("{}\n", equal.line());
  for (const std::string& note : report.notes) fmt::print("{}\n", note);
  for (const ModelReport& model : report.models) {
    if (!model.drift) continue;
    fmt::print(
        "{:<{}} {:.0f} % of {} answers the same, {:.1f} tokens in common, {:.1f} tokens long (dense {:.1f}), "
        "repetition {:.1f} % (dense {:.1f} %)\n",
        model.summary.name, width, 100.0 * model.drift->identical, report.prompts.size(),
        model.drift->mean_common_tokens, model.drift->mean_tokens, model.drift->dense_mean_tokens,
        100.0 * model.drift->repetition, 100.0 * model.drift->dense_repetition);
    fmt::print("{:<{}} {:.0f} % of the answers end in a loop (dense {:.0f} %)", model.summary.name, width,
               100.0 * model.drift->loops, 100.0 * model.drift->dense_loops);
    if (model.drift->questions > 0) {
      fmt::print(", {} of {} questions answered right (dense {})", model.drift->exact, model.drift->questions,
                 model.drift->dense_exact);
    }
    fmt::print("\n");
  }
  for (const ModelReport& model : report.models) {
    if (model.accepted.empty()) continue;
    fmt::print("{:<{}} {} of {} refusal prompts answered as accepted\n", model.summary.name, width,
               std::count(model.accepted.begin(), model.accepted.end(), true), model.accepted.size());
  }
  if (!report.convention.empty()) fmt::print("convention  {}\n", report.convention);
  if (flags.report.empty()) {
    print_note(flags.common, "--report out.html makes the page with curves, blocks, masks and examples");
  }
}

void check_flags(const CompareFlags& flags) {
  check(flags.job);
  check_output_file("--report", flags.report);
  check_output_file("--markdown", flags.markdown);
  if (flags.equal_bytes && flags.job.texts.files.empty())
    bad_usage("--equal-bytes: found no measurement, expected --text");
  if (!flags.equal_bytes && !flags.calibration.is_self())
    bad_usage("--calibration: found without --equal-bytes, whose models it is for");
  if (!flags.equal_bytes && flags.solve == "all")
    bad_usage("--solve: found without --equal-bytes, whose models it is for");
}

ComparisonReport at_equal_bytes(const CompareFlags& flags, const ComparisonInput& input, Device& device) {
  CalibrationText text = flags.calibration;
  text.field = flags.job.texts.field;
  text.fit_to(*input.models[0]);
  const TemporaryFolder work(make_work_folder(flags.work));
  EqualBytesOptions options;
  options.model = as_given(flags.common, flags.job.dense);
  const auto read = [&] {
    return calibration_windows(notes_to(flags.common), *input.models[0], device, text,
                               flags.calibration_windows, false, input.forward.compute,
                               input.forward.progress);
  };
  options.calibration = read;
  if (!text.is_self())  // what is wrong with a file is said at once
    options.calibration = [windows = read()] { return windows; };
  options.calibration_source = text.is_self() ? "the model itself" : text.source();
  options.solve_all = flags.solve == "all";
  options.calibration_arguments = {"--calibration"};
  options.calibration_arguments.insert(options.calibration_arguments.end(), text.sources.begin(),
                                       text.sources.end());
  options.calibration_arguments.insert(
      options.calibration_arguments.end(),
      {"--windows", std::to_string(flags.calibration_windows), "--seqlen", std::to_string(text.seqlen)});
  options.work = work.path();
  return compare_at_equal_bytes(input, device, options);
}

void check_same_models(const CompareFlags& flags, std::span<const std::unique_ptr<Model>> models,
                       const Device& device, Communicator& ranks) {
  std::vector<const Checkpoint*> checkpoints;
  for (const auto& model : models) checkpoints.push_back(&model->checkpoint());
  check_same_run(ranks, *flags.common.command, checkpoints, device);
}

// The dense model comes first.
void note_exchanged(const CompareFlags& flags) {
  const auto has_record = [](const std::string& folder) {
    std::error_code ignored;
    return std::filesystem::exists(std::filesystem::path(folder) / "swiftprune.json", ignored);
  };
  if (!has_record(flags.job.dense) || std::ranges::any_of(flags.job.pruned, has_record)) return;
  print_note(
      flags.common,
      fmt::format(
          "{} has a record of its pruning, {} none, and the dense model comes first: were the two exchanged?",
          as_given(flags.common, flags.job.dense), as_given(flags.common, flags.job.pruned.front())));
}

void run(const CompareFlags& flags, Communicator& ranks) {
  const RunScope scope = apply(flags.common);
  check_flags(flags);
  if (flags.equal_bytes) check_one_process(ranks, "--equal-bytes", "leave --ranks out");
  const auto device = open_device(flags.device);
  std::vector<std::string> folders = {flags.job.dense};
  folders.insert(folders.end(), flags.job.pruned.begin(), flags.job.pruned.end());
  std::vector<std::unique_ptr<Model>> models;
  for (const std::string& folder : folders) {
    models.push_back(open_model(flags.common, folder, adapter_of(flags.job, models.size())));
    device->check_model(*models.back());
  }
  ComparisonInput input =
      comparison_input(flags.job, models, compute_by_name(flags.compute, *device), notes_to(flags.common));
  input.folders = std::move(folders);
  if (input.masks.empty() && (!flags.report.empty() || takes_page())) input.masks = default_masks(*models[0]);

  check_same_models(flags, models, *device, ranks);
  if (ranks.is_first()) note_exchanged(flags);
  ComparisonReport report =
      flags.equal_bytes ? at_equal_bytes(flags, input, *device) : compare(input, *device, ranks);
  if (!ranks.is_first()) return;
  for (ModelReport& model : report.models) {
    model.summary.folder = as_given(flags.common, model.summary.folder);
    for (const ModelStep& step : model.summary.steps) {
      const std::string line = shell_command(step.command);
      const bool known =
          std::find(report.commands.begin(), report.commands.end(), line) != report.commands.end();
      if (!line.empty() && !known) report.commands.push_back(line);
    }
  }
  report.commands.push_back(shell_command(repeat_arguments(*flags.common.command)));
  if (!flags.report.empty()) write_report(flags.report, to_html(report));
  if (!flags.markdown.empty()) write_report(flags.markdown, to_markdown(report));
  give_page([&report] { return to_html(report); });
  if (flags.common.json) {
    print_json(to_json(report));
  } else {
    print_report(report, flags);
  }
  require_passed(report);
}

void add_flags(CLI::App& command, CompareFlags& f) {
  add_model_argument(command, f.common, "DENSE", f.job.dense,
                     "The model before pruning: a folder or id of Hugging Face, or a .gguf file")
      ->required();
  add_model_argument(command, f.common, "PRUNED", f.job.pruned,
                     "Pruned or packed models: folders, ids, .gguf files")
      ->required()
      ->expected(1, 100);
  command
      .add_option("--adapter", f.job.adapters,
                  "LoRA folders whose low-rank parts stand beside the linears of the pruned models, one for "
                  "each in their "
                  "order; none: without")
      ->type_size(1)
      ->expected(1, 100);
  add_evaluation_flags(command, f.job.texts);
  command.add_option(
      "--prompts", f.job.prompts,
      "Prompts to answer greedily: .jsonl with \"prompt\" (and \"answer\", where one is right), or text "
      "with one a line");
  command.add_option(
      "--refusals", f.job.refusals,
      "Prompts whose answers are to match: .jsonl with \"prompt\" and \"accept\" (regular expressions)");
  command.add_option("--accept", f.job.accept,
                     "With --refusals: a regular expression that any answer may match");
  command.add_option("--max-tokens", f.job.max_tokens, "Tokens of an answer")
      ->capture_default_str()
      ->check(within(option_values::kAnswerTokens));
  command
      .add_option("--error-tokens", f.job.error_tokens,
                  "Tokens for the blocks' output errors (0: leave them out)")
      ->capture_default_str()
      ->check(within(option_values::kErrorTokens));
  command.add_option("--mask", f.job.masks, "Tensor to picture in the report, by its full name; repeatable");
  command.add_option("--report", f.report, "Write one self-contained HTML page");
  command.add_option("--markdown", f.markdown, "Write the table as Markdown");
  command.add_flag(
      "--equal-bytes", f.equal_bytes,
      "Beside them the dense model in 8, 4 and 3 bits, rounded to the nearest and solved: which is "
      "better at the same size");
  command
      .add_option("--solve", f.solve,
                  "With --equal-bytes: what to solve, each taking as long as quantize does: needed (where "
                  "rounding does not settle what is better) or all")
      ->capture_default_str()
      ->transform(one_of({"needed", "all"}));
  command
      .add_option("--calibration", f.calibration.sources,
                  "With --equal-bytes: text to solve those on (files as in prune), or self")
      ->capture_default_str();
  command.add_option("--calibration-windows", f.calibration_windows, "With --equal-bytes: windows of it")
      ->capture_default_str()
      ->check(in_range(1, 1 << 20));
  command.add_option("--work", f.work,
                     "With --equal-bytes: folder for those models; needs the model's size free");
  add_gate_flags(command, f.job.gates);
  add_answer_gate_flags(command, f.job.gates);
  add_compute_flag(command, f.compute);
  add_device_flags(command, f.device);
  add_rank_flags(command, f.common, f.ranks);
  add_common_options(command, f.common);
}

}  // namespace

void declare_compare(CLI::App& program) {
  auto flags = std::make_shared<CompareFlags>();
  CLI::App* command =
      program.add_subcommand("compare", "What pruning cost: divergence, perplexity, answers, a report page");
  add_flags(*command, *flags);
  command->footer(
      "Exit code 5: a gate failed; the first line says which.\n"
      "Examples:\n"
      "  swiftprune compare ./SmolLM2-135M ./SmolLM2-50 ./SmolLM2-24 --text my_text.txt --windows 16 "
      "--report out.html\n"
      "  swiftprune compare ./SmolLM2-135M ./SmolLM2-50 --text my_text.txt --max-perplexity-ratio 1.10 "
      "--min-top1 0.9\n"
      "  swiftprune compare ./Qwen3-30B-A3B ./experts75 --prompts questions.jsonl "
      "--max-loops 0.02 --min-exact 0.9\n"
      "  swiftprune compare ./SmolLM2-135M ./SmolLM2-50-int4 --text my_text.txt --equal-bytes --calibration "
      "other.txt --report out.html");
  command->callback([flags] {
    run_in_ranks(flags->common, flags->ranks, flags->device.device,
                 [&](Communicator& ranks) { run(*flags, ranks); });
  });
}

}  // namespace swiftprune::cli
