// Everything that is known of pruned models beside their dense parent: what `compare` and `pilot` measure and
// what the page, the JSON document and the Markdown table show. The document's schema: docs/report.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/evaluation/block_errors.h"
#include "swiftprune/evaluation/divergence.h"
#include "swiftprune/evaluation/generation_drift.h"
#include "swiftprune/report/gates.h"
#include "swiftprune/report/model_summary.h"

namespace swiftprune {

class Device;

// A token whose distributions differ much, as text.
struct WorstExample {
  std::string before;  // the text that leads to it
  std::string token;   // what the text goes on with
  double kl = 0.0;
  double dense_probability = 0.0, pruned_probability = 0.0;   // of that token
  std::vector<std::pair<std::string, double>> dense, pruned;  // likeliest tokens
};

struct ModelReport {
  ModelSummary summary;
  std::optional<PerplexityResult> perplexity;
  std::optional<double> bits_per_byte;
  std::optional<double> forward_tokens_per_second;
  std::optional<double> decode_tokens_per_second;
  std::optional<std::int64_t> packed_bytes;  // of a pilot's trial: what `pack` makes of it, and decodes with
  std::optional<double> first_blocks_error;  // of a pilot's trial: of its linears' outputs, relative, squared
  // Against the dense model; nothing for itself.
  std::optional<Divergence> divergence;
  std::vector<WorstExample> worst;
  std::optional<std::vector<BlockError>> block_errors;
  std::optional<AnswerSet> generation;
  std::optional<GenerationDrift> drift;
  std::optional<AnswerSet> refusal_answers;
  std::vector<bool> accepted;  // of the refusal prompts
  std::vector<MaskPicture> masks;
  bool few_bits = false;  // the dense model in few bits, made to be compared with

  // Packed where it can be.
  std::int64_t stored_bytes() const { return packed_bytes.value_or(summary.num_bytes); }
};

// A pruned model beside the dense one in the bits that make it no larger.
struct EqualBytes {
  std::string model;
  std::int64_t bytes = 0;
  // Of those of at most kSameBytes times its bytes, the one of least divergence; else, with is_larger, the smallest.
  std::string rival;
  std::int64_t rival_bytes = 0;
  bool is_larger = false;
  double kl = 0.0, rival_kl = 0.0;
  double perplexity = 0.0, rival_perplexity = 0.0;

  bool wins() const { return kl < rival_kl; }
  std::string line() const;
};
inline constexpr double kSameBytes = 1.02;

struct ComparisonReport {
  std::string title;
  std::string text;                 // file; empty when no text was measured
  std::string convention;           // label
  std::string compute;              // "f32", "bf16"
  std::vector<ModelReport> models;  // the dense one first
  std::vector<Prompt> prompts, refusals;
  std::vector<GateResult> gates;      // failed first
  std::vector<std::string> commands;  // what repeats everything, in order
  bool is_pilot = false;
  std::optional<std::string>
      recommendation;       // of a pilot: the one command; none where no trial keeps the limit
  std::string recommended;  // and its model
  std::optional<double> max_perplexity_ratio;  // what models are to keep, where somebody says so
  std::vector<std::string> notes;
  std::vector<EqualBytes> equal_bytes;  // of each pruned model, where dense ones in few bits stand beside it

  bool passed() const;  // no gate failed
};

struct ComparisonInput {
  std::vector<const Model*> models;  // the dense one first
  std::vector<std::string> folders;  // as the user named them
  std::string text;                  // name, for the report
  std::string convention;
  std::optional<double> bytes_per_token;
  std::vector<ScoredWindows> parts;  // empty: no text
  std::vector<Prompt> prompts, refusals;
  std::int64_t max_tokens = 64;
  std::int64_t error_tokens = 2048;  // for block errors; 0: none
  std::vector<std::string> masks;    // tensors to picture
  GateLimits gates;
  ForwardOptions forward;
  std::size_t num_worst = 8;
  // Models from here on are the dense one in few bits: measured on the text alone.
  std::size_t first_few_bits = SIZE_MAX;
};

// On the device. Throws Error{kUsage} for gates without a text, Error{kBadInput} when vocabularies or
// tokenizers differ.
// ranks: the text is measured by all together; all the rest is measured, and reported, by the first alone.
ComparisonReport compare(const ComparisonInput& input, Device& device, Communicator& ranks = alone());

// From the bytes and divergences of the report's models.
std::vector<EqualBytes> equal_bytes(const ComparisonReport& report);

// One or two sentences: passed or failed gates, then what the best model keeps and loses.
struct Verdict {
  enum class Mood { kGood, kFair, kBad };
  Mood mood = Mood::kFair;
  std::string headline;
  std::string detail;
};
Verdict verdict_of(const ComparisonReport& report);

nlohmann::ordered_json to_json(const ComparisonReport& report);
std::string to_markdown(const ComparisonReport& report);
std::string to_html(const ComparisonReport& report);
// Arguments as one line for a POSIX shell.
std::string shell_command(std::span<const std::string> arguments);
// By name: "out.html"; Error{kFailure} when the file cannot be written.
void write_report(const std::string& file, const std::string& content);

}  // namespace swiftprune
