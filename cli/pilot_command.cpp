// swiftprune pilot: methods × sparsities on a model and a text of one's own, within a time budget.
#include <memory>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "option_echo.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/pilot/pilot.h"
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "work_folder.h"

namespace swiftprune::cli {
namespace {

struct PilotFlags {
  CommonOptions common;
  std::string field = "text";
  double minutes = 10.0;
  std::int64_t calibration_tokens = 16 * 2048;
  std::int64_t evaluation_tokens = 8 * 2048;
  std::string report, markdown;
  std::string work;
  std::string compute = "auto";
  DeviceFlags device;
  PilotOptions options;
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
  fmt::print("\nRecommended:\n  {}\n", *report.recommendation);
}

void run(PilotFlags& flags) {
  const RunScope job = apply(flags.common);
  PilotOptions& options = flags.options;
  for (const double sparsity : options.sparsities) {
    if (!(sparsity > 0.0 && sparsity < 1.0)) bad_usage("--sparsity: found {}, expected 0 < s < 1", sparsity);
  }
  const auto device = open_device(flags.device);
  check_output_file("--report", flags.report);
  check_output_file("--markdown", flags.markdown);
  options.prune_arguments = repeat_options(*flags.common.command, {"--field", "--compute"});
  const auto model = open_model(flags.common, options.model);
  options.model = as_given(flags.common, options.model);
  device->check_model(*model);
  if (flags.common.command->count("--expert-ratio") > 0) {
    for (const double ratio : options.expert_ratios) {
      check_experts_left(model->config(), experts_for_ratio(model->config(), ratio), "--expert-ratio");
    }
  }
  const auto tokenizer = evaluation_tokenizer(*model, {options.text});
  const EvaluationText text =
      read_evaluation_text(options.text, flags.field, tokenizer.get(), model->config().vocab_size);
  const PilotText split = split_text(text.ids, text.name, model->config().max_positions,
                                     flags.calibration_tokens, flags.evaluation_tokens);
  const TemporaryFolder work(make_work_folder(flags.work));
  options.work = work.path();
  options.device = flags.device.device;
  options.budget_seconds = 60.0 * flags.minutes;
  options.bytes_per_token = text.bytes_per_token;
  options.forward.compute = compute_by_name(flags.compute, *device);
  options.forward.progress = job.context().progress;
  if (!flags.report.empty() || takes_page()) {
    const BlockConfig& block =
        model->config().blocks[static_cast<std::size_t>(model->config().num_layers() / 2)];
    options.masks = {linears_of(block).back().name + ".weight"};
  }
  ComparisonReport report = run_pilot(*model, *device, split, options);
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
  PilotOptions& o = flags->options;
  CLI::App* command =
      program.add_subcommand("pilot", "Try methods and sparsities on your own text, and get one command");
  add_model_argument(*command, flags->common, "MODEL", o.model, "Hugging Face model folder, or a GGUF file")
      ->required();
  command->add_option("--text", o.text, "Your text: .txt, .jsonl, .u16, .u32; half calibrates, half measures")
      ->required();
  command->add_option("--field", flags->field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command
      ->add_option("--minutes", flags->minutes,
                   "Time for everything; trials that would not end in it are left out")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option("--method", o.methods, "Methods to try; swiftprune methods lists them")
      ->capture_default_str();
  command->add_option("--sparsity", o.sparsities, "Shares of weights to try")->capture_default_str();
  command->add_option("--pattern", o.patterns, "N:M patterns to try beside them")->capture_default_str();
  command
      ->add_option("--expert-ratio", o.expert_ratios,
                   "Of a model with experts: shares of them to take out, beside all that")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      ->add_option("--max-perplexity-ratio", o.max_perplexity_ratio, "What the recommended model is to keep")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option("--calibration-tokens", flags->calibration_tokens, "Tokens to calibrate with at most")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option("--evaluation-tokens", flags->evaluation_tokens, "Tokens to measure on at most")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option("--work", flags->work,
                      "Folder for the models on trial; needs twice the model's size free");
  command->add_option("--report", flags->report, "Write one self-contained HTML page");
  command->add_option("--markdown", flags->markdown, "Write the table as Markdown");
  add_compute_flag(*command, flags->compute);
  add_device_flags(*command, flags->device);
  add_common_options(*command, flags->common);
  command->footer("Example: swiftprune pilot ./SmolLM2-135M --text own.txt --minutes 10 --report pilot.html");
  command->callback([flags] { run(*flags); });
}

}  // namespace swiftprune::cli
