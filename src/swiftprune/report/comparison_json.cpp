#include "swiftprune/pipeline/record.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune {
namespace {

using nlohmann::ordered_json;

constexpr int kFormatVersion = 1;

ordered_json likely_json(const std::vector<std::pair<std::string, double>>& tokens) {
  ordered_json list = ordered_json::array();
  for (const auto& [text, probability] : tokens)
    list.push_back({{"text", text}, {"probability", probability}});
  return list;
}

ordered_json divergence_json(const Divergence& d) {
  ordered_json json = {{"mean_kl", d.mean_kl},
                       {"p99_kl", d.p99_kl},
                       {"max_kl", d.max_kl},
                       {"top1", d.top1},
                       {"perplexity_ratio", d.perplexity_ratio}};
  if (d.ratio_interval) json["perplexity_ratio_95"] = {d.ratio_interval->low, d.ratio_interval->high};
  return json;
}

ordered_json errors_json(const std::vector<BlockError>& errors) {
  ordered_json list = ordered_json::array();
  for (const BlockError& error : errors) {
    ordered_json block = {{"block", error.layer}, {"own", error.own}, {"total", error.total}};
    for (const LinearError& linear : error.linears) block["linears"][linear.name] = linear.error;
    list.push_back(std::move(block));
  }
  return list;
}

ordered_json answers_json(const std::vector<Prompt>& prompts, const AnswerSet& generation) {
  ordered_json list = ordered_json::array();
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Answer& answer = generation.answers[i];
    list.push_back({{"prompt", prompts[i].text},
                    {"answer", answer.text},
                    {"tokens", answer.ids.size()},
                    {"ended", answer.ended},
                    {"repetition", answer.repetition},
                    {"loops", answer.loops}});
  }
  return list;
}

ordered_json summary_json(const ModelSummary& s) {
  ordered_json json = {{"name", s.name},       {"folder", s.folder},
                       {"family", s.family},   {"parameters", s.num_parameters},
                       {"bytes", s.num_bytes}, {"bits_per_weight", s.bits_per_weight},
                       {"packed", s.packed},   {"sparsity", s.sparsity},
                       {"pattern", s.pattern}, {"block_sparsity", s.block_sparsity}};
  if (!s.method.empty()) json["method"] = s.method;
  for (const ModelStep& step : s.steps) {
    json["steps"].push_back({{"method", step.method}, {"command", step.command}});
  }
  if (!s.calibration.empty()) json["calibration"] = s.calibration;
  for (const auto& [stage, seconds] : s.stage_seconds) json["stage_seconds"][stage] = seconds;
  if (!s.prune_command.empty()) json["prune_command"] = s.prune_command;
  return json;
}

ordered_json drift_json(const GenerationDrift& d) {
  return {{"identical", d.identical},
          {"mean_common_tokens", d.mean_common_tokens},
          {"mean_tokens", d.mean_tokens},
          {"dense_mean_tokens", d.dense_mean_tokens},
          {"loops", d.loops},
          {"dense_loops", d.dense_loops},
          {"new_loops", d.new_loops},
          {"questions", d.questions},
          {"exact", d.exact},
          {"dense_exact", d.dense_exact},
          {"repetition", d.repetition},
          {"dense_repetition", d.dense_repetition},
          {"common_tokens", d.common_tokens}};
}

ordered_json model_json(const ComparisonReport& report, const ModelReport& model) {
  ordered_json json = summary_json(model.summary);
  if (model.perplexity) {
    json["perplexity"] = model.perplexity->perplexity;
    json["mean_nll"] = model.perplexity->mean_nll;
    json["tokens"] = model.perplexity->num_tokens;
    json["window_nll"] = model.perplexity->window_nll;
  }
  if (model.bits_per_byte) json["bits_per_byte"] = *model.bits_per_byte;
  if (model.forward_tokens_per_second) json["forward_tokens_per_second"] = *model.forward_tokens_per_second;
  if (model.decode_tokens_per_second) json["decode_tokens_per_second"] = *model.decode_tokens_per_second;
  if (model.few_bits) json["dense_in_few_bits"] = true;
  if (model.packed_bytes) json["packed_bytes"] = *model.packed_bytes;
  if (model.divergence) json["divergence"] = divergence_json(*model.divergence);
  for (const WorstExample& example : model.worst) {
    json["worst"].push_back({{"before", example.before},
                             {"token", example.token},
                             {"kl", example.kl},
                             {"dense_probability", example.dense_probability},
                             {"pruned_probability", example.pruned_probability},
                             {"dense", likely_json(example.dense)},
                             {"pruned", likely_json(example.pruned)}});
  }
  if (model.block_errors) json["block_errors"] = errors_json(*model.block_errors);
  if (model.generation) json["generation"] = answers_json(report.prompts, *model.generation);
  if (model.drift) json["drift"] = drift_json(*model.drift);
  if (model.refusal_answers) {
    json["refusals"] = answers_json(report.refusals, *model.refusal_answers);
    for (std::size_t i = 0; i < model.accepted.size(); ++i)
      json["refusals"][i]["accepted"] = bool{model.accepted[i]};
  }
  return json;
}

}  // namespace

ordered_json to_json(const ComparisonReport& report) {
  const Verdict verdict = verdict_of(report);
  ordered_json json = {{"format_version", kFormatVersion},
                       {"swiftprune", SWIFTPRUNE_VERSION},
                       {"title", report.title},
                       {"verdict", {{"headline", verdict.headline}, {"detail", verdict.detail}}},
                       {"passed", report.passed()},
                       {"gates", ordered_json::array()},
                       {"text", report.text},
                       {"convention", report.convention},
                       {"compute", report.compute},
                       {"machine", machine_record()},
                       {"models", ordered_json::array()},
                       {"commands", report.commands}};
  for (const GateResult& gate : report.gates) {
    json["gates"].push_back({{"model", gate.model},
                             {"gate", gate.gate},
                             {"limit", gate.limit},
                             {"found", gate.found},
                             {"passed", gate.passed}});
  }
  for (const ModelReport& model : report.models) json["models"].push_back(model_json(report, model));
  if (report.recommendation) {
    json["recommendation"] = {{"model", report.recommended}, {"command", *report.recommendation}};
  } else if (report.is_pilot) {
    json["recommendation"] = nullptr;
  }
  for (const EqualBytes& equal : report.equal_bytes) {
    json["equal_bytes"].push_back({{"model", equal.model},
                                   {"bytes", equal.bytes},
                                   {"rival", equal.rival},
                                   {"rival_bytes", equal.rival_bytes},
                                   {"rival_is_larger", equal.is_larger},
                                   {"mean_kl", equal.kl},
                                   {"rival_mean_kl", equal.rival_kl},
                                   {"wins", equal.wins()}});
  }
  if (!report.notes.empty()) json["notes"] = report.notes;
  return json;
}

}  // namespace swiftprune
