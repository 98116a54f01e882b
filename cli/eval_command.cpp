// swiftprune eval: perplexity of one model on texts, and its accuracy on tasks.
#include <chrono>
#include <cmath>
#include <memory>
#include <numbers>

#include <fmt/format.h>

#include "command.h"
#include "model_text.h"
#include "option_echo.h"
#include "ranks.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/device/device.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/evaluation/tasks.h"

namespace swiftprune::cli {
namespace {

using nlohmann::ordered_json;

struct EvalOptions {
  CommonOptions common;
  std::string model;
  EvaluationFlags text;
  std::vector<std::string> tasks;
  std::int64_t limit = 0;
  bool items = false;
  std::string compute = "f32";
  DeviceFlags device;
  RankFlags ranks;
};

struct TextResult {
  EvaluationText text;
  PerplexityResult result;
  std::string ids;  // hash of the windows
  double seconds = 0.0;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TextResult evaluate(const Model& model, Device& device, EvaluationText text,
                    const ConventionOptions& convention, const ForwardOptions& forward, Communicator& ranks) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<ScoredWindows> parts = scored_windows(text.ids, text.name, convention);
  TextResult result;
  TokenWindows all{convention.seqlen, {}};
  for (const ScoredWindows& part : parts) {
    all.ids.insert(all.ids.end(), part.windows.ids.begin(), part.windows.ids.end());
  }
  result.ids = all.hash();
  check_same_on_ranks(ranks, {{"text", result.ids}});
  const Model* models[] = {&model};
  result.result = perplexity(model, *device.text_forwards(models, forward), parts, forward.progress, ranks);
  result.text = std::move(text);
  result.seconds = seconds_since(start);
  return result;
}

// Loss of several texts together: every scored token weighs the same.
ordered_json summary_json(const std::vector<TextResult>& texts) {
  double nll = 0.0, tokens = 0.0, bytes = 0.0, forwarded = 0.0, seconds = 0.0;
  bool has_bytes = true;
  for (const TextResult& text : texts) {
    const auto n = static_cast<double>(text.result.num_tokens);
    nll += n * text.result.mean_nll;
    tokens += n;
    has_bytes = has_bytes && text.text.bytes_per_token.has_value();
    bytes += n * text.text.bytes_per_token.value_or(0.0);
    forwarded += static_cast<double>(text.result.num_forwarded);
    seconds += text.seconds;
  }
  ordered_json json = {{"perplexity", std::exp(nll / tokens)}, {"mean_nll", nll / tokens}};
  if (has_bytes) json["bits_per_byte"] = nll / std::numbers::ln2 / bytes;
  json["tokens"] = static_cast<std::int64_t>(tokens);
  json["seconds"] = seconds;
  json["tokens_per_second"] = forwarded / seconds;
  return json;
}

ordered_json to_json(const TextResult& text) {
  const PerplexityResult& r = text.result;
  ordered_json json = {{"text", text.text.name}, {"perplexity", r.perplexity}, {"mean_nll", r.mean_nll}};
  if (text.text.bytes_per_token) json["bits_per_byte"] = r.bits_per_byte(*text.text.bytes_per_token);
  json["tokens"] = r.num_tokens;
  json["windows"] = r.window_nll.size();
  json["ids"] = text.ids;
  json["seconds"] = text.seconds;
  json["tokens_per_second"] = static_cast<double>(r.num_forwarded) / text.seconds;
  json["window_nll"] = r.window_nll;
  return json;
}

ordered_json to_json(const TaskResult& task, bool with_items) {
  ordered_json json = {
      {"task", task.name}, {"items", task.items.size()}, {"acc", task.acc}, {"acc_stderr", task.acc_stderr}};
  if (task.multiple_choice) {
    json["acc_norm"] = task.acc_norm;
    json["acc_norm_stderr"] = task.acc_norm_stderr;
  } else {
    json["perplexity"] = task.perplexity;
  }
  json["truncated"] = task.num_truncated;
  json["tokens"] = task.num_forwarded;
  json["tokens_without_sharing"] = task.num_unshared;
  json["seconds"] = task.seconds;
  json["tokens_per_second"] = static_cast<double>(task.num_forwarded) / task.seconds;
  if (!with_items) return json;
  for (const TaskItemResult& item : task.items) {
    json["results"].push_back({{"log_probs", item.log_probs},
                               {"predicted", item.predicted},
                               {"predicted_norm", item.predicted_norm},
                               {"correct", item.correct},
                               {"correct_norm", item.correct_norm}});
  }
  return json;
}

void print_text(const TextResult& text) {
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

std::vector<TextResult> evaluate_texts(const Model& model, Device& device, const EvalOptions& options,
                                       const ForwardOptions& forward, Communicator& ranks,
                                       ordered_json& document) {
  std::vector<TextResult> results;
  if (options.text.files.empty()) return results;
  const auto tokenizer = evaluation_tokenizer(model, options.text.files);
  const ConventionOptions convention = convention_options(model, tokenizer.get(), options.text);
  document["convention"] = options.text.convention;
  document["convention_label"] = label_of(convention);
  document["seqlen"] = convention.seqlen;
  document["bos"] = convention.bos.has_value();
  for (const std::string& file : options.text.files) {
    EvaluationText text =
        read_evaluation_text(file, options.text.field, tokenizer.get(), model.config().vocab_size);
    print_notes(options.common, text.notes);
    for (const std::string& note : text.notes) document["notes"].push_back(note);
    results.push_back(evaluate(model, device, std::move(text), convention, forward, ranks));
    if (!options.common.json) print_text(results.back());
  }
  if (!options.common.json) fmt::print("convention  {}\n", document["convention_label"].get<std::string>());
  document.update(summary_json(results));
  for (const TextResult& result : results) document["texts"].push_back(to_json(result));
  return results;
}

void run(const EvalOptions& options, Communicator& ranks) {
  const RunScope job = apply(options.common);
  if (ranks.size() > 1 && !options.tasks.empty())
    bad_usage("--task: found with {} ranks, which share out texts alone; run tasks in one process",
              ranks.size());
  const auto device = open_device(options.device);
  if (options.text.files.empty() && options.tasks.empty()) {
    bad_usage("eval: found neither --text nor --task, expected at least one");
  }
  const auto model = open_model(options.common, options.model);
  device->check_model(*model);
  ForwardOptions forward;
  forward.compute = parse_compute(options.compute, *device);
  forward.progress = job.context().progress;
  if (ranks.size() > 1) {
    check_same_on_ranks(ranks, {{"command", byte_options(*options.common.command)},
                                {"model", sampled_files(model->checkpoint())},
                                {"device", device->name()},
                                {"instruction set", isa_name()}});
  }
  // Files are read before anything is computed, so that a wrong one costs no time.
  std::vector<Task> tasks;
  for (const std::string& spec : options.tasks) tasks.push_back(read_task(spec, options.limit));

  ordered_json document = {{"model", as_given(options.common, options.model)}};
  for (const std::string& note : model->notes()) document["notes"].push_back(note);
  if (ranks.size() > 1) document["ranks"] = ranks.size();
  evaluate_texts(*model, *device, options, forward, ranks, document);
  std::unique_ptr<Tokenizer> tokenizer;
  if (!tasks.empty()) tokenizer = Tokenizer::open(model->checkpoint().folder());
  const Model* models[] = {model.get()};
  const auto forwards = tasks.empty() ? nullptr : device->text_forwards(models, forward);
  for (const Task& task : tasks) {
    const TaskResult result = run_task(*model, *forwards, *tokenizer, task, forward.progress);
    if (!options.common.json) print_task(result);
    document["tasks"].push_back(to_json(result, options.items));
  }
  document["compute"] = forward.compute == ComputeType::kBF16 ? "bf16" : "f32";
  document["device"] = device->name();
  document["threads"] = num_threads();
  document["instruction_set"] = isa_name();
  if (options.common.json) print_json(document);
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
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = program.add_subcommand("eval", "Perplexity of a model on texts, accuracy on tasks");
  add_model_argument(*command, options->common, "MODEL", options->model,
                     "Hugging Face model folder, dense or packed, or a GGUF file")
      ->required();
  add_evaluation_flags(*command, options->text);
  command->add_option("--task", options->tasks,
                      "Task files, FILE.jsonl or FORMAT=FILE.jsonl; the name of the file tells the format");
  command->add_option("--limit", options->limit, "First so many items of each task (0: all)")
      ->check(zero_or_more());
  command->add_flag("--items", options->items, "With --json: the scores of every item");
  add_compute_flag(*command, options->compute);
  add_device_flags(*command, options->device);
  add_rank_flags(*command, options->common, options->ranks);
  add_common_options(*command, options->common);
  command->footer(task_help());
  command->callback([options] {
    run_in_ranks(options->common, options->ranks, options->device.device,
                 [&](Communicator& ranks) { run(*options, ranks); });
  });
}

}  // namespace swiftprune::cli
