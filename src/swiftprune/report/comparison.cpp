#include "swiftprune/report/comparison.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <utility>

#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/device/device.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kContextTokens = 48;  // shown before a worst token

std::vector<std::pair<std::string, double>> as_text(const Tokenizer& tokenizer,
                                                    const std::vector<LikelyToken>& tokens) {
  std::vector<std::pair<std::string, double>> result;
  for (const LikelyToken& token : tokens) {
    result.emplace_back(tokenizer.decode(std::vector{token.id}, false), token.probability);
  }
  return result;
}

WorstExample example_of(const Tokenizer& tokenizer, std::span<const ScoredWindows> parts,
                        const DivergentToken& token) {
  const auto window = parts[token.part].windows.window(token.window);
  const std::int64_t begin = std::max<std::int64_t>(0, token.position - kContextTokens);
  WorstExample example;
  example.before = tokenizer.decode(
      window.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(token.position - begin)),
      false);
  example.token = tokenizer.decode(window.subspan(static_cast<std::size_t>(token.position), 1), false);
  example.kl = token.kl;
  example.dense_probability = token.dense_probability;
  example.pruned_probability = token.pruned_probability;
  example.dense = as_text(tokenizer, token.dense);
  example.pruned = as_text(tokenizer, token.pruned);
  return example;
}

bool has_tokenizer(const Model& model) { return Tokenizer::is_in(model.checkpoint().folder()); }

// The same text must mean the same tokens.
void check_tokenizers(const Tokenizer& dense, const Tokenizer& other, std::span<const Prompt> prompts,
                      const Model& model) {
  if (dense.fingerprint() == other.fingerprint()) return;
  constexpr std::string_view kProbe =
      "The quick brown fox, 3.14 jumps\n\n\tover; naïve «Übung» 漢字 🙂 {x: [1]}";
  bool same = dense.encode(kProbe) == other.encode(kProbe);
  for (const Prompt& prompt : prompts) same = same && dense.encode(prompt.text) == other.encode(prompt.text);
  if (!same) {
    bad_input(
        "{}: found a tokenizer that cuts text into other tokens than the dense model's, expected the same",
        model.checkpoint().folder().string());
  }
}

// The largest, each text once: a name that both models miss all over a page says it once.
void add_worst(const Tokenizer& tokenizer, const ComparisonInput& input, ModelReport& model) {
  for (const DivergentToken& token : model.divergence->worst) {
    WorstExample example = example_of(tokenizer, input.parts, token);
    const bool known = std::any_of(model.worst.begin(), model.worst.end(),
                                   [&](const WorstExample& other) { return other.token == example.token; });
    if (!known && model.worst.size() < input.num_worst) model.worst.push_back(std::move(example));
  }
}

void measure_text(const ComparisonInput& input, Device& device, const Tokenizer* tokenizer,
                  Communicator& ranks, ComparisonReport& report) {
  const std::vector<ComparedModel> compared =
      compare_models(input.models, *device.text_forwards(input.models, input.forward), input.parts,
                     {.num_worst = 2 * input.num_worst, .progress = input.forward.progress}, ranks);
  if (!ranks.is_first()) return;
  for (std::size_t m = 0; m < compared.size(); ++m) {
    ModelReport& model = report.models[m];
    model.perplexity = compared[m].perplexity;
    if (input.bytes_per_token) model.bits_per_byte = model.perplexity->bits_per_byte(*input.bytes_per_token);
    model.forward_tokens_per_second =
        static_cast<double>(model.perplexity->num_forwarded) / compared[m].forward_seconds;
    model.divergence = compared[m].divergence;
    if (!model.divergence) continue;
    if (model.few_bits) continue;
    if (tokenizer != nullptr) add_worst(*tokenizer, input, model);
    for (GateResult& gate : check_gates(input.gates, model.summary.name, *model.divergence)) {
      report.gates.push_back(std::move(gate));
    }
    if (input.error_tokens > 0) {
      const Model &dense = *input.models[0], &pruned = *input.models[m];
      const auto make_blocks = [&](TokenWindows windows) {
        return device.paired_blocks(dense, pruned, std::move(windows), input.forward.compute);
      };
      model.block_errors = block_errors(dense, pruned, make_blocks, input.parts[0].windows,
                                        input.error_tokens, input.forward.progress);
    }
  }
  sort_failed_first(report.gates);
}

void measure_answers(const ComparisonInput& input, Device& device, const Tokenizer& tokenizer,
                     ComparisonReport& report) {
  const AnswerOptions options{input.max_tokens, input.forward.progress};
  for (std::size_t m = 0; m < input.models.size(); ++m) {
    ModelReport& model = report.models[m];
    const auto make_generator = [&](std::int64_t sequences, std::int64_t capacity) {
      return device.generator(*input.models[m], input.forward.compute, sequences, capacity, {});
    };
    if (!input.prompts.empty()) {
      model.generation =
          generate_answers(*input.models[m], make_generator, tokenizer, input.prompts, options);
      model.decode_tokens_per_second = model.generation->decode_tokens_per_second;
      if (m > 0) model.drift = drift(*report.models[0].generation, *model.generation, input.prompts);
      if (m > 0 && !model.few_bits) {
        for (GateResult& gate : check_gates(input.gates, model.summary.name, *model.drift)) {
          report.gates.push_back(std::move(gate));
        }
      }
    }
    if (!input.refusals.empty() && !model.few_bits) {
      model.refusal_answers =
          generate_answers(*input.models[m], make_generator, tokenizer, input.refusals, options);
      model.accepted = accepted(input.refusals, *model.refusal_answers);
    }
  }
  sort_failed_first(report.gates);
}

std::string times(double ratio) { return fmt::format("{:.{}f}", ratio, ratio < 10.0 ? 3 : 1); }

std::string describe(const ModelReport& model) {
  const Divergence& d = *model.divergence;
  std::string text;
  if (model.few_bits) {
    text = fmt::format("{:.2f} bits a weight; ", model.summary.bits_per_weight);
  } else if (model.summary.sparsity >= 0.0005) {
    text = fmt::format("{:.1f} % of the linears' weights are zero; ", 100.0 * model.summary.sparsity);
  }
  text += fmt::format("perplexity {:.2f}, {} times the dense model's", model.perplexity->perplexity,
                      times(d.perplexity_ratio));
  if (d.ratio_interval) {
    text += fmt::format(" (95 %: {} to {})", times(d.ratio_interval->low), times(d.ratio_interval->high));
  }
  return text + fmt::format(
                    "; the likeliest next token is the same for {:.1f} % of the text; mean divergence {:.3f} "
                    "nats a token.",
                    100.0 * d.top1, d.mean_kl);
}

}  // namespace

bool ComparisonReport::passed() const {
  return std::all_of(gates.begin(), gates.end(), [](const GateResult& gate) { return gate.passed; });
}

ComparisonReport compare(const ComparisonInput& input, Device& device, Communicator& ranks) {
  device.check_ranks(ranks);
  expect(input.models.size() >= 2 && input.models.size() == input.folders.size(),
         "compare: two models or more");
  if (input.gates.on_text() && input.parts.empty()) {
    bad_usage("gates (--max-perplexity-ratio, --min-top1, --max-kl): found no measurement, expected --text");
  }
  if (input.gates.on_answers() && input.prompts.empty()) {
    bad_usage(
        "gates (--max-loops, --max-length-change, --min-exact): found no measurement, expected --prompts");
  }
  const auto is_question = [](const Prompt& prompt) { return !prompt.right.empty(); };
  if (input.gates.min_exact && std::none_of(input.prompts.begin(), input.prompts.end(), is_question)) {
    bad_usage(
        "--min-exact: found no question in --prompts, expected lines of .jsonl with \"prompt\" and "
        "\"answer\"");
  }
  ComparisonReport report;
  report.title = fmt::format("{}, pruned", model_name(input.folders[0]));
  report.text = input.text;
  report.convention = input.convention;
  report.compute = input.forward.compute == ComputeType::kBF16 ? "bf16" : "f32";
  report.max_perplexity_ratio = input.gates.max_perplexity_ratio;
  report.prompts = input.prompts;
  report.refusals = input.refusals;
  std::unique_ptr<Tokenizer> tokenizer;
  if (has_tokenizer(*input.models[0])) tokenizer = Tokenizer::open(input.models[0]->checkpoint().folder());
  for (std::size_t m = 0; m < input.models.size(); ++m) {
    const Model& model = *input.models[m];
    require_same_vocabulary(*input.models[0], model);
    if (m > 0 && tokenizer != nullptr && has_tokenizer(model)) {
      check_tokenizers(*tokenizer, *Tokenizer::open(model.checkpoint().folder()), input.prompts, model);
    }
    ModelReport& entry = report.models.emplace_back();
    entry.summary = summarize_model(model, input.folders[m]);
    entry.few_bits = m >= input.first_few_bits;
    for (const std::string& tensor : input.masks) {
      if (m > 0 && !entry.few_bits) entry.masks.push_back(picture_mask(model, tensor));
    }
  }
  if (!input.parts.empty()) measure_text(input, device, tokenizer.get(), ranks, report);
  if (!ranks.is_first()) return report;
  if (!input.prompts.empty() || !input.refusals.empty()) {
    if (tokenizer == nullptr) {
      bad_input("{}: found no tokenizer, expected one for the prompts", input.folders[0]);
    }
    measure_answers(input, device, *tokenizer, report);
  }
  return report;
}

std::string EqualBytes::line() const {
  const auto size = [](std::int64_t n) { return fmt::format("{:.1f} MB", static_cast<double>(n) / 1e6); };
  const std::string ours = fmt::format("divergence {:.3f}, perplexity {:.2f}", kl, perplexity);
  const std::string theirs = fmt::format("{:.3f} and {:.2f}", rival_kl, rival_perplexity);
  if (is_larger) {
    return fmt::format(
        "No dense model in few bits is as small as {} ({}, {}); the smallest, {}, has {} in {}.", model,
        size(bytes), ours, rival, theirs, size(rival_bytes));
  }
  return fmt::format("At {} {} ({}) is {} than {}{} ({} in {}).", size(bytes), model, ours,
                     wins() ? "better" : "worse", rival, wins() ? ", the best dense one of that size" : "",
                     theirs, size(rival_bytes));
}

std::vector<EqualBytes> equal_bytes(const ComparisonReport& report) {
  std::vector<const ModelReport*> rivals;
  for (const ModelReport& model : report.models) {
    if (model.few_bits && model.divergence) rivals.push_back(&model);
  }
  std::vector<EqualBytes> result;
  if (rivals.empty()) return result;
  for (const ModelReport& model : report.models) {
    if (model.few_bits || !model.divergence) continue;
    const double limit = kSameBytes * static_cast<double>(model.stored_bytes());
    const auto fits = [&](const ModelReport& m) { return static_cast<double>(m.stored_bytes()) <= limit; };
    const ModelReport* rival = rivals.front();
    for (const ModelReport* other : rivals) {
      const bool better = fits(*other) && fits(*rival)
                              ? other->divergence->mean_kl < rival->divergence->mean_kl
                              : other->stored_bytes() < rival->stored_bytes();
      if (better) rival = other;
    }
    result.push_back({.model = model.summary.name,
                      .bytes = model.stored_bytes(),
                      .rival = rival->summary.name,
                      .rival_bytes = rival->stored_bytes(),
                      .is_larger = !fits(*rival),
                      .kl = model.divergence->mean_kl,
                      .rival_kl = rival->divergence->mean_kl,
                      .perplexity = model.perplexity->perplexity,
                      .rival_perplexity = rival->perplexity->perplexity});
  }
  return result;
}

// The words and their limits: docs/report.md.
Verdict verdict_of(const ComparisonReport& report) {
  Verdict verdict;
  const ModelReport* best = nullptr;
  for (const ModelReport& model : report.models) {
    if (!model.divergence) continue;
    if (model.summary.name == report.recommended) {
      best = &model;
      break;
    }
    if (model.few_bits && !report.is_pilot) continue;
    if (best == nullptr || model.divergence->perplexity_ratio < best->divergence->perplexity_ratio)
      best = &model;
  }
  if (best == nullptr && !report.gates.empty()) {  // of answers alone
    verdict.mood = report.passed() ? Verdict::Mood::kGood : Verdict::Mood::kBad;
    verdict.headline = report.passed() ? "Passed: every limit is kept" : "Failed: a limit is not kept";
    verdict.detail = "No text was measured: the limits are those of the answers.";
    return verdict;
  }
  if (best == nullptr) {
    verdict.headline = "No text was measured";
    verdict.detail = "Pass --text FILE for perplexity, divergence and a verdict.";
    return verdict;
  }
  const double ratio = best->divergence->perplexity_ratio;
  const std::ptrdiff_t count =
      std::count_if(report.models.begin(), report.models.end(),
                    [](const ModelReport& model) { return model.divergence.has_value() && !model.few_bits; });
  const bool single = count == 1 && !report.is_pilot;
  verdict.detail = (single ? "" : best->summary.name + ": ") + describe(*best);
  for (const EqualBytes& equal : report.equal_bytes) {
    if (equal.model == best->summary.name) verdict.detail += fmt::format(" {}", equal.line());
  }
  if (!report.gates.empty()) {
    verdict.mood = report.passed() ? Verdict::Mood::kGood : Verdict::Mood::kBad;
    std::set<std::string> failed;
    for (const GateResult& gate : report.gates) {
      if (!gate.passed) failed.insert(gate.model);
    }
    verdict.headline =
        report.passed() ? (single ? "Passed: every limit is kept" : "Passed: all models keep every limit")
        : single        ? "Failed: a limit is not kept"
                        : fmt::format("Failed: {} of {} models do not keep the limits", failed.size(), count);
    return verdict;
  }
  if (report.is_pilot && !report.recommendation) {
    verdict.mood = Verdict::Mood::kBad;
    verdict.headline =
        fmt::format("None is recommended: no trial stays within {:.2f} times the dense model's perplexity",
                    report.max_perplexity_ratio.value_or(1.0));
    verdict.detail = "Nearest is " + verdict.detail;
    return verdict;
  }
  const std::string_view kind = report.recommended.empty() ? "best" : "recommended";
  const std::string subject =
      single ? "The pruned model" : fmt::format("The {} model, {},", kind, best->summary.name);
  if (ratio < 0.98) {  // trained since, or the two were exchanged
    verdict.headline = subject + " predicts this text better than the dense one";
  } else if (ratio <= 1.02) {
    verdict.mood = Verdict::Mood::kGood;
    verdict.headline = subject + " is as good as the dense one on this text";
  } else if (ratio <= 1.10) {
    verdict.mood = Verdict::Mood::kGood;
    verdict.headline = subject + " loses little on this text";
  } else if (ratio <= 1.5) {
    verdict.headline = subject + " loses noticeably on this text";
  } else {
    verdict.mood = Verdict::Mood::kBad;
    verdict.headline = subject + " loses much on this text";
  }
  return verdict;
}

std::string shell_command(std::span<const std::string> arguments) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  std::string line;
  for (const std::string& argument : arguments) {
    if (!line.empty()) line += ' ';
    if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) {
      line += argument;
      continue;
    }
    line += '\'';
    for (const char c : argument) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

void write_report(const std::string& file, const std::string& content) {
  std::ofstream out(file, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  if (!out) fail(ErrorKind::kFailure, "{}: cannot be written", file);
}

}  // namespace swiftprune
