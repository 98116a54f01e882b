#include "swiftprune/api/eval_job.h"

#include <chrono>
#include <cmath>
#include <memory>
#include <numbers>

#include "swiftprune/api/option_values.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/ranks/same_on_ranks.h"

namespace swiftprune {
namespace {

using nlohmann::ordered_json;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

EvaluatedText evaluate_text(const Model& model, Device& device, EvaluationText text,
                            const ConventionOptions& convention, const ForwardOptions& forward,
                            Communicator& ranks) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<ScoredWindows> parts = scored_windows(text.ids, text.name, convention);
  EvaluatedText result;
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

void evaluate_texts(const EvalJob& job, const Model& model, Device& device, const ForwardOptions& forward,
                    const EvalEvents& events, Communicator& ranks, EvalReport& report) {
  if (job.texts.files.empty()) return;
  const auto tokenizer = evaluation_tokenizer(model, job.texts.files);
  const ConventionOptions convention = convention_options(model, tokenizer.get(), job.texts);
  report.convention = job.texts.convention;
  report.convention_label = label_of(convention);
  report.seqlen = convention.seqlen;
  report.bos = convention.bos.has_value();
  for (const std::string& file : job.texts.files) {
    EvaluationText text =
        read_evaluation_text(file, job.texts.field, tokenizer.get(), model.config().vocab_size);
    for (const std::string& note : text.notes) events.note(note);
    report.texts.push_back(evaluate_text(model, device, std::move(text), convention, forward, ranks));
    events.on_text(report.texts.back());
  }
  events.on_texts(report);
}

double mean_nll(const EvalReport& report) {
  double nll = 0.0, tokens = 0.0;
  for (const EvaluatedText& text : report.texts) {
    const auto n = static_cast<double>(text.result.num_tokens);
    nll += n * text.result.mean_nll;
    tokens += n;
  }
  return nll / tokens;
}

ordered_json summary_json(const EvalReport& report) {
  double nll = 0.0, tokens = 0.0, bytes = 0.0, forwarded = 0.0, seconds = 0.0;
  bool has_bytes = true;
  for (const EvaluatedText& text : report.texts) {
    const auto n = static_cast<double>(text.result.num_tokens);
    nll += n * text.result.mean_nll;
    tokens += n;
    has_bytes = has_bytes && text.text.bytes_per_token.has_value();
    bytes += n * text.text.bytes_per_token.value_or(0.0);
    forwarded += static_cast<double>(text.result.num_forwarded);
    seconds += text.seconds;
  }
  ordered_json json = {{"perplexity", report.perplexity()}, {"mean_nll", mean_nll(report)}};
  if (has_bytes) json["bits_per_byte"] = nll / std::numbers::ln2 / bytes;
  json["tokens"] = static_cast<std::int64_t>(tokens);
  json["seconds"] = seconds;
  json["tokens_per_second"] = forwarded / seconds;
  return json;
}

ordered_json text_json(const EvaluatedText& text) {
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

ordered_json task_json(const TaskResult& task, bool with_items) {
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

}  // namespace

double EvalReport::perplexity() const { return std::exp(mean_nll(*this)); }

ordered_json to_json(const EvalReport& report, bool with_items) {
  ordered_json document = {{"model", report.model}};
  if (!report.adapter.empty()) document["adapter"] = report.adapter;
  for (const std::string& note : report.notes) document["notes"].push_back(note);
  if (report.ranks > 1) document["ranks"] = report.ranks;
  if (!report.texts.empty()) {
    document["convention"] = report.convention;
    document["convention_label"] = report.convention_label;
    document["seqlen"] = report.seqlen;
    document["bos"] = report.bos;
    for (const EvaluatedText& text : report.texts) {
      for (const std::string& note : text.text.notes) document["notes"].push_back(note);
    }
    document.update(summary_json(report));
    for (const EvaluatedText& text : report.texts) document["texts"].push_back(text_json(text));
  }
  for (const TaskResult& task : report.tasks) document["tasks"].push_back(task_json(task, with_items));
  document["compute"] = report.compute == ComputeType::kBF16 ? "bf16" : "f32";
  document["device"] = report.device;
  document["threads"] = report.threads;
  document["instruction_set"] = report.instruction_set;
  return document;
}

void check(const EvalJob& job) {
  check_values(job.texts);
  check_value("--limit", job.limit, option_values::kTaskLimit);
  if (job.texts.files.empty() && job.tasks.empty())
    bad_usage("eval: found neither --text nor --task, expected at least one");
}

EvalReport evaluate(const EvalJob& job, const Model& model, Device& device, ComputeType compute,
                    const EvalEvents& events, Communicator& ranks) {
  ForwardOptions forward;
  forward.compute = compute;
  forward.progress = current_run().progress;
  // Files are read before anything is computed, so that a wrong one costs no time.
  std::vector<Task> tasks;
  for (const std::string& spec : job.tasks) tasks.push_back(read_task(spec, job.limit));

  EvalReport report;
  report.model = job.model;
  report.adapter = job.adapter;
  report.notes = model.notes();
  report.ranks = ranks.size();
  evaluate_texts(job, model, device, forward, events, ranks, report);
  std::unique_ptr<Tokenizer> tokenizer;
  if (!tasks.empty()) tokenizer = Tokenizer::open(model.checkpoint().folder());
  const Model* models[] = {&model};
  const auto forwards = tasks.empty() ? nullptr : device.text_forwards(models, forward);
  for (const Task& task : tasks) {
    report.tasks.push_back(run_task(model, *forwards, *tokenizer, task, forward.progress, ranks));
    events.on_task(report.tasks.back());
  }
  report.compute = compute;
  report.device = device.name();
  report.threads = num_threads();
  report.instruction_set = isa_name();
  return report;
}

Outcome<EvalReport> EvalJob::run(const JobContext& context) const {
  return outcome_of([&] {
    const RunScope scope(context.run);
    check(*this);
    const LocatedModel located = locate_model(model);
    const auto device = open_device(where.device, where.options);
    const auto opened = Model::open(located.folder, adapter);
    for (const std::string& note : opened->notes()) context.note(note);
    device->check_model(*opened);
    return evaluate(*this, *opened, *device, compute_by_name(where.compute, *device), {.note = context.note});
  });
}

}  // namespace swiftprune
