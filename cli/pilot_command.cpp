// swiftprune pilot: gentle and harsher settings on a model and a text of one's own, within a time budget.
#include <memory>

#include <fmt/format.h>

#include "command.h"
#include "machine.h"
#include "model_text.h"
#include "option_echo.h"
#include "swiftprune/api/pilot_job.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "work_folder.h"

namespace swiftprune::cli {
namespace {

struct PilotFlags {
  CommonOptions common;
  std::string field = "text";
  std::string report, markdown;
  std::string work;
  DeviceFlags device;
  PilotJob job;
};

void print_report(const ComparisonReport& report) {
  const Verdict verdict = verdict_of(report);
  fmt::print("{}\n{}\n\n", verdict.headline, verdict.detail);
  fmt::print("{:<24} {:>8} {:>10} {:>11} {:>8} {:>8} {:>8} {:>12}\n", "model", "zeros", "packed",
             "perplexity", "ratio", "top-1", "KL", "decode, t/s");
  for (const ModelReport& model : report.models) {
    const std::int64_t bytes = model.packed_bytes.value_or(model.summary.num_bytes);
    fmt::print("{:<24} {:>6.1f} % {:>10} {:>11.3f}", model.summary.name.substr(0, 24),
               100.0 * model.summary.sparsity, human_bytes(static_cast<double>(bytes)),
               model.perplexity->perplexity);
    if (const auto& d = model.divergence) {
      fmt::print(" {:>8.3f} {:>6.1f} % {:>8.4f}", d->perplexity_ratio, 100.0 * d->top1, d->mean_kl);
    } else {
      fmt::print(" {:>8} {:>8} {:>8}", "", "", "");
    }
    fmt::print(" {:>12.1f}\n", model.decode_tokens_per_second.value_or(0.0));
  }
  fmt::print("\n");
  for (const std::string& note : report.notes) fmt::print("{}\n", note);
  if (report.recommendation) fmt::print("\nRecommended:\n  {}\n", *report.recommendation);
}

// "0" and "none" leave a list out.
void leave_out(PilotJob& job) {
  for (std::vector<double>* shares : {&job.sparsities, &job.shrink_ratios, &job.expert_ratios})
    std::erase(*shares, 0.0);
  for (std::vector<std::string>* names : {&job.patterns, &job.bits}) std::erase(*names, "none");
}

// Before anything is computed: what the user asked for himself is not passed over.
void check(const PilotFlags& flags, const Model& model) {
  const PilotJob& job = flags.job;
  const auto check_share = [](std::string_view flag, double found) {
    if (!(found > 0.0 && found < 1.0)) bad_usage("{}: found {}, expected 0 < s < 1", flag, found);
  };
  for (const double sparsity : job.sparsities) check_share("--sparsity", sparsity);
  for (const double ratio : job.shrink_ratios) check_share("--shrink", ratio);
  for (const std::string& bits : job.bits) static_cast<void>(parse_grid(bits, "--quantize"));
  if (flags.common.command->count("--expert-ratio") == 0) return;
  for (const double ratio : job.expert_ratios)
    check_experts_left(model.config(), experts_for_ratio(model.config(), ratio), "--expert-ratio");
}

void run(PilotFlags& flags) {
  const RunScope scope = apply(flags.common);
  PilotJob& job = flags.job;
  leave_out(job);
  const auto device = open_device(flags.device);
  check_output_file("--report", flags.report);
  check_output_file("--markdown", flags.markdown);
  const auto model = open_model(flags.common, job.model);
  device->check_model(*model);
  check(flags, *model);
  const auto tokenizer = evaluation_tokenizer(*model, {job.text});
  const EvaluationText text =
      read_evaluation_text(job.text, flags.field, tokenizer.get(), model->config().vocab_size);
  const TemporaryFolder work(make_work_folder(flags.work));
  PilotRun run;
  run.model = as_given(flags.common, job.model);
  run.text = split_text(text.ids, text.name, model->config().max_positions, job.calibration_tokens,
                        job.evaluation_tokens);
  run.bytes_per_token = text.bytes_per_token;
  run.work = work.path();
  run.prune_arguments = repeat_options(*flags.common.command, {"--field", "--compute"});
  run.compute = compute_by_name(job.where.compute, *device);
  job.where.device = flags.device.device;
  if (!flags.report.empty() || takes_page()) {
    const BlockConfig& block =
        model->config().blocks[static_cast<std::size_t>(model->config().num_layers() / 2)];
    run.masks = {linears_of(block).back().name + ".weight"};
  }
  const std::string busy = busy_note(load_average(), num_threads());
  if (!busy.empty()) print_note(flags.common, busy);
  ComparisonReport report = run_pilot(job, run, *model, *device);
  if (!busy.empty()) report.notes.push_back(fmt::format("When this began, {}.", busy));
  report.commands.push_back(shell_command(repeat_arguments(*flags.common.command)));
  if (!flags.report.empty()) write_report(flags.report, to_html(report));
  if (!flags.markdown.empty()) write_report(flags.markdown, to_markdown(report));
  give_page([&report] { return to_html(report); });
  if (flags.common.json) {
    print_json(to_json(report));
  } else {
    print_report(report);
  }
}

}  // namespace

void declare_pilot(CLI::App& program) {
  auto flags = std::make_shared<PilotFlags>();
  PilotJob& o = flags->job;
  CLI::App* command = program.add_subcommand(
      "pilot",
      "Try pruning, shrinking and fewer bits on your own text, gentle settings first, and get one command");
  add_model_argument(*command, flags->common, "MODEL", o.model, kModelHelp)->required();
  command->add_option("--text", o.text, "Your text: .txt, .jsonl, .u16, .u32; half calibrates, half measures")
      ->required();
  command->add_option("--field", flags->field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command
      ->add_option("--minutes", o.minutes,
                   "Time for everything: fewer windows are used where it is short, then fewer trials")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option("--method", o.methods, "Methods to try; swiftprune methods lists them")
      ->capture_default_str()
      ->transform(a_method());
  command->add_option("--sparsity", o.sparsities, "Shares of weights to try; 0: none")
      ->capture_default_str()
      ->transform(share());
  command->add_option("--pattern", o.patterns, "N:M patterns to try beside them; none")
      ->capture_default_str()
      ->check(a_pattern("none"));
  command->add_option("--shrink", o.shrink_ratios, "Shares of the MLP's channels to take out; 0: none")
      ->capture_default_str()
      ->transform(share());
  command->add_option("--quantize", o.bits, "Few bits without zeros: int8, int4, int3; none")
      ->capture_default_str();
  command
      ->add_option("--expert-ratio", o.expert_ratios,
                   "Of a model with experts: shares of them to take out; 0: none")
      ->check(in_range(0.0, 1.0))
      ->transform(share())
      ->capture_default_str();
  command
      ->add_option("--max-perplexity-ratio", o.max_perplexity_ratio,
                   "What the recommended model is to keep, of the dense model's perplexity")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option("--calibration-tokens", o.calibration_tokens, "Tokens to calibrate with at most")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option("--evaluation-tokens", o.evaluation_tokens, "Tokens to measure on at most")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option(
      "--work", flags->work,
      "Folder for the models on trial, twice the model's size; else the system's temporary one");
  command->add_option("--report", flags->report, "Write one self-contained HTML page");
  command->add_option("--markdown", flags->markdown, "Write the table as Markdown");
  add_compute_flag(*command, o.where.compute);
  add_device_flags(*command, flags->device);
  add_common_options(*command, flags->common);
  command->footer("Example: swiftprune pilot ./SmolLM2-135M --text own.txt --minutes 10 --report pilot.html");
  command->callback([flags] { run(*flags); });
}

}  // namespace swiftprune::cli
