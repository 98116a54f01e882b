#include "swiftprune/api/texts.h"

#include <algorithm>
#include <filesystem>

#include "swiftprune/api/option_values.h"
#include "swiftprune/core/error.h"
#include "swiftprune/evaluation/evaluation_text.h"

namespace swiftprune {
namespace {

// What each window starts with.
std::optional<std::int32_t> window_bos(const Model& model, const Tokenizer* tokenizer, const std::string& bos,
                                       Convention convention) {
  if (bos == "none") return std::nullopt;
  const auto id = tokenizer == nullptr ? std::nullopt : tokenizer->bos();
  if (bos == "auto") {
    if (convention == Convention::kLlamaCpp) {
      const auto added = tokenizer == nullptr ? std::vector<std::int32_t>{} : tokenizer->encode("");
      return !added.empty() && id == added.front() ? id : std::nullopt;
    }
    if (!model.config().needs_bos) return std::nullopt;
  }
  if (!id) {
    bad_input("{}: windows, or the text, are to start with BOS (--bos {}), but the tokenizer has none",
              model.checkpoint().folder().string(), bos);
  }
  return id;
}

}  // namespace

void check_values(const EvaluationTexts& texts) {
  check_value("--seqlen", texts.seqlen, option_values::kSeqlen);
  check_value("--windows", texts.windows, option_values::kWindows);
  check_value("--stride", texts.stride, option_values::kStride);
  check_value("--bos", texts.bos, option_values::kBos);
}

std::unique_ptr<Tokenizer> evaluation_tokenizer(const Model& model, const std::vector<std::string>& files) {
  const std::filesystem::path& folder = model.checkpoint().folder();
  const bool has_text =
      std::any_of(files.begin(), files.end(), [](const auto& f) { return !holds_token_ids(f); });
  if (!has_text && !Tokenizer::is_in(folder)) return nullptr;
  return Tokenizer::open(folder);
}

ConventionOptions convention_options(const Model& model, const Tokenizer* tokenizer,
                                     const EvaluationTexts& texts) {
  if (texts.stride > 0 && texts.convention != "strided") {
    bad_usage("--stride: found {} with --convention {}, expected --convention strided", texts.stride,
              texts.convention);
  }
  if (texts.seqlen_given) model.check_length(texts.seqlen, "--seqlen");
  ConventionOptions options;
  options.convention = convention_by_name(texts.convention);
  options.seqlen = usual_length(model, texts.seqlen);
  options.stride = texts.stride;
  options.max_windows = texts.windows;
  options.bos = window_bos(model, tokenizer, texts.bos, options.convention);
  options.bos_once = texts.bos == "once";
  return options;
}

void read_texts(const Model& dense, const EvaluationTexts& texts, const NoteFn& note,
                ComparisonInput& input) {
  const auto tokenizer = evaluation_tokenizer(dense, texts.files);
  const ConventionOptions convention = convention_options(dense, tokenizer.get(), texts);
  input.convention = label_of(convention);
  double bytes = 0.0, tokens = 0.0;
  bool has_bytes = true;
  for (const std::string& file : texts.files) {
    const EvaluationText text =
        read_evaluation_text(file, texts.field, tokenizer.get(), dense.config().vocab_size);
    for (const std::string& line : text.notes) note(line);
    for (ScoredWindows& part : scored_windows(text.ids, text.name, convention)) {
      const auto scored = static_cast<double>(part.num_scored());
      tokens += scored;
      bytes += scored * text.bytes_per_token.value_or(0.0);
      input.parts.push_back(std::move(part));
    }
    has_bytes = has_bytes && text.bytes_per_token.has_value();
    input.text += (input.text.empty() ? "" : ", ") + text.name;
  }
  if (has_bytes) input.bytes_per_token = bytes / tokens;
}

std::int64_t usual_length(const Model& model, std::int64_t num_positions) {
  return std::min(num_positions, model.config().max_positions);
}

ComputeType compute_by_name(const std::string& name, const Device& device) {
  if (name == "auto") return device.default_compute();
  if (name != "bf16" && name != "f32") bad_usage("--compute: found '{}', expected auto, f32 or bf16", name);
  return name == "bf16" ? ComputeType::kBF16 : ComputeType::kF32;
}

}  // namespace swiftprune
