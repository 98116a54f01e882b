// swiftprune eval: perplexity of one model on texts, and its accuracy on tasks.
#include <array>
#include <memory>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "option_echo.h"
#include "ranks.h"
#include "swiftprune/api/eval_job.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cli {
namespace {

struct EvalFlags {
  CommonOptions common;
  EvalJob job;
  bool items = false;
  std::string compute = "f32";
  DeviceFlags device;
  RankFlags ranks;
};

void print_text(const EvaluatedText& text) {
  const PerplexityResult& r = text.result;
  fmt::print("text        {}\nperplexity  {:.4f}   {} tokens in {} windows\n", text.text.name, r.perplexity,
             r.num_tokens, r.window_nll.size());
  if (text.text.bytes_per_token) {
    fmt::print("bits/byte   {:.4f}   {:.2f} bytes a token\n", r.bits_per_byte(*text.text.bytes_per_token),
               *text.text.bytes_per_token);
  }
  fmt::print("speed       {:.0f} tokens/s   {:.1f} s, {} threads, {}\n",
             static_cast<double>(r.num_forwarded) / text.seconds, text.seconds, num_threads(), isa_name());
}

void print_task(const TaskResult& task) {
  const auto percent = [](double mean, double error) {
    return fmt::format("{:5.1f} ± {:.1f} %", 100.0 * mean, 100.0 * error);
  };
  fmt::print("{:<14} {:>6}   acc {}", task.name, task.items.size(), percent(task.acc, task.acc_stderr));
  if (task.multiple_choice) {
    fmt::print("   acc_norm {}", percent(task.acc_norm, task.acc_norm_stderr));
  } else {
    fmt::print("   perplexity {:.2f}", task.perplexity);
  }
  fmt::print("   {:.0f} tokens/s ({:.1f} times fewer tokens by shared beginnings)\n",
             static_cast<double>(task.num_forwarded) / task.seconds,
             static_cast<double>(task.num_unshared) / static_cast<double>(task.num_forwarded));
}

// What is printed while the work goes on.
EvalEvents events_of(const EvalFlags& flags) {
  EvalEvents events{.note = notes_to(flags.common)};
  if (flags.common.json) return events;
  events.on_text = print_text;
  events.on_texts = [](const EvalReport& report) { fmt::print("convention  {}\n", report.convention_label); };
  events.on_task = print_task;
  return events;
}

void run(const EvalFlags& flags, Communicator& ranks) {
  const RunScope scope = apply(flags.common);
  const auto device = open_device(flags.device);
  check(flags.job);
  const auto model = open_model(flags.common, flags.job.model, flags.job.adapter);
  device->check_model(*model);
  const ComputeType compute = compute_by_name(flags.compute, *device);
  check_same_run(ranks, *flags.common.command, std::array{&model->checkpoint()}, *device);
  EvalReport report = evaluate(flags.job, *model, *device, compute, events_of(flags), ranks);
  report.model = as_given(flags.common, flags.job.model);
  if (flags.common.json) print_json(to_json(report, flags.items));
}

std::string task_help() {
  std::string help =
      "Task formats (--task), prompts as in lm-evaluation-harness; docs/evaluation.md has the fields:\n";
  for (const TaskFormat& format : task_formats()) {
    help += fmt::format("  {:<14} {}\n", format.name, format.summary);
  }
  return help +
         "Examples:\n"
         "  swiftprune eval ./SmolLM2-135M --text wiki.txt my_chats.jsonl --field content --windows 32\n"
         "  swiftprune eval ./SmolLM2-135M --task piqa.jsonl arc_easy=ARC-Easy-Test.jsonl --limit 200";
}

}  // namespace

void declare_eval(CLI::App& program) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = program.add_subcommand("eval", "Perplexity of a model on texts, accuracy on tasks");
  add_model_argument(*command, flags->common, "MODEL", flags->job.model, kAnyModelHelp)->required();
  add_adapter_flag(*command, flags->job.adapter);
  add_evaluation_flags(*command, flags->job.texts);
  command->add_option("--task", flags->job.tasks,
                      "Task files, FILE.jsonl or FORMAT=FILE.jsonl; the name of the file tells the format");
  command->add_option("--limit", flags->job.limit, "First so many items of each task (0: all)")
      ->check(within(option_values::kTaskLimit));
  command->add_flag("--items", flags->items, "With --json: the scores of every item");
  add_compute_flag(*command, flags->compute);
  add_device_flags(*command, flags->device);
  add_rank_flags(*command, flags->common, flags->ranks);
  add_common_options(*command, flags->common);
  command->footer(task_help());
  command->callback([flags] {
    run_in_ranks(flags->common, flags->ranks, flags->device.device,
                 [&](Communicator& ranks) { run(*flags, ranks); });
  });
}

}  // namespace swiftprune::cli
