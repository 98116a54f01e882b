#include "swiftprune/api/calibration_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <optional>

#include <fmt/ranges.h>

#include "swiftprune/api/texts.h"
#include "swiftprune/calibration/self_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/model/first_token.h"
#include "swiftprune/text/mixed_windows.h"
#include "swiftprune/text/text_kind.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;

struct Source {
  std::string file;
  std::optional<double> weight = std::nullopt;
};

// FILE or FILE=WEIGHT; a file whose own name has a '=' is taken by its name.
Source parse_source(const std::string& text) {
  std::error_code ignored;
  const auto equals = text.rfind('=');
  if (equals == std::string::npos || fs::exists(text, ignored)) return {text};
  const std::string number = text.substr(equals + 1);
  double weight = 0.0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), weight);
  if (error != std::errc() || end != number.data() + number.size() || !std::isfinite(weight) ||
      weight <= 0.0) {
    bad_usage(
        "--calibration {}: found the weight '{}', expected a number above 0 (FILE=WEIGHT, as code.jsonl=0.5)",
        text, number);
  }
  return {text.substr(0, equals), weight};
}

std::vector<Source> parse_sources(const std::vector<std::string>& texts) {
  if (texts.empty()) bad_usage("--calibration: found nothing, expected a text, or self");
  std::vector<Source> sources;
  for (const std::string& text : texts) sources.push_back(parse_source(text));
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const Source &first = sources.front(), &source = sources[i];
    if (source.weight.has_value() != first.weight.has_value()) {
      bad_usage("--calibration: found {} with a weight and {} without, expected one for each or for none",
                source.weight ? source.file : first.file, source.weight ? first.file : source.file);
    }
    const auto same = [&](const Source& other) {
      std::error_code ignored;
      return other.file == source.file || fs::equivalent(other.file, source.file, ignored);
    };
    const auto begin = sources.begin(), end = begin + static_cast<std::ptrdiff_t>(i);
    if (std::find_if(begin, end, same) != end) {
      bad_usage(
          "--calibration: found {} twice, expected each file once; what counts more gets a larger weight "
          "(FILE=WEIGHT)",
          source.file);
    }
  }
  return sources;
}

TokenWindows windows_of_files(const NoteFn& note, const Model& model, const CalibrationText& text,
                              const std::vector<Source>& sources, std::int64_t windows, bool at_most) {
  std::vector<WeightedText> texts;
  for (const Source& source : sources) {
    if (source.file == "self") bad_usage("--calibration: found self beside files, expected one or the other");
    texts.push_back({read_corpus(source.file, text.field), source.weight.value_or(1.0)});
    for (const std::string& line : texts.back().corpus.notes) note(line);
  }
  const auto tokenizer = Tokenizer::open(model.checkpoint().folder());
  if (sources.front().weight)
    return mixed_windows(*tokenizer, texts, windows, text.seqlen, text.seed, at_most);
  Corpus all{text.source(), {}};
  for (WeightedText& part : texts) {
    std::move(part.corpus.documents.begin(), part.corpus.documents.end(), std::back_inserter(all.documents));
  }
  return sample_windows(*tokenizer, all, windows, text.seqlen, text.seed, at_most);
}

// Experts that the text does not use look useless, whatever other text they are for.
void note_one_kind(const NoteFn& note, const Model& model, const TokenWindows& windows) {
  if (!model.config().has_experts() || !Tokenizer::is_in(model.checkpoint().folder())) return;
  const auto tokenizer = Tokenizer::open(model.checkpoint().folder());
  TextKinds kinds;
  for (std::int64_t i = 0; i < windows.num_windows(); ++i) {
    std::vector<std::int32_t> ids;  // a model may have more than its tokenizer
    std::ranges::copy_if(windows.window(i), std::back_inserter(ids),
                         [&](std::int32_t id) { return id < tokenizer->vocab_size(); });
    kinds.add(tokenizer->decode(ids, false));
  }
  if (const TextKind* only = kinds.only()) {
    note(
        fmt::format("{:.0f} % of the calibration text is {}: experts that only other text uses will look "
                    "useless; give what the model is for, each with its share: --calibration code.jsonl=0.5 "
                    "chat.jsonl=0.5",
                    100.0 * kinds.share(*only), name_of(*only)));
  }
}

TokenWindows found_windows(const NoteFn& note, const Model& model, Device& device,
                           const CalibrationText& text, std::int64_t windows, bool at_most,
                           ComputeType compute, const ProgressFn& progress) {
  if (text.is_self()) {
    SelfTextOptions self;
    self.windows = windows;
    self.seqlen = text.seqlen;
    self.seed = text.seed;
    self.first_token = first_token(model);
    self.progress = progress;
    const auto make = [&](std::int64_t sequences, std::int64_t capacity) {
      return device.generator(model, compute, sequences, capacity, {});
    };
    return self_text(make, self);
  }
  const std::vector<Source> sources = parse_sources(text.sources);
  const auto ids = std::find_if(sources.begin(), sources.end(),
                                [](const Source& source) { return holds_token_ids(source.file); });
  if (ids != sources.end()) {
    if (sources.size() > 1)
      bad_usage("--calibration: found {} beside other files, expected token ids alone", ids->file);
    std::vector<std::int32_t> tokens = read_token_ids(ids->file, model.config().vocab_size);
    WindowOptions options;
    options.seqlen = text.seqlen;
    const std::int64_t found = static_cast<std::int64_t>(tokens.size()) / text.seqlen;
    options.max_windows = at_most ? std::clamp<std::int64_t>(found, 1, windows) : windows;
    return windows_of_ids(std::move(tokens), ids->file, options);
  }
  return windows_of_files(note, model, text, sources, windows, at_most);
}

}  // namespace

std::string CalibrationText::source() const { return fmt::format("{}", fmt::join(sources, ", ")); }

CalibrationRecord CalibrationText::record(const TokenWindows& windows) const {
  CalibrationRecord record{source(), windows.hash(), windows.num_windows(), windows.seqlen, seed};
  const std::vector<Source> parsed = is_self() ? std::vector<Source>{} : parse_sources(sources);
  if (parsed.empty() || !parsed.front().weight) return record;
  std::vector<double> weights;
  for (const Source& source : parsed) weights.push_back(*source.weight);
  const std::vector<std::int64_t> counts = windows_by_weight(weights, windows.num_windows());
  for (std::size_t i = 0; i < parsed.size(); ++i) {
    record.texts.push_back({parsed[i].file, weights[i], counts[i]});
  }
  return record;
}

void CalibrationText::fit_to(const Model& model) {
  if (seqlen_given) model.check_length(seqlen, "--seqlen");
  seqlen = usual_length(model, seqlen);
}

TokenWindows calibration_windows(const NoteFn& note, const Model& model, Device& device,
                                 const CalibrationText& text, std::int64_t windows, bool at_most,
                                 ComputeType compute, const ProgressFn& progress) {
  TokenWindows found = found_windows(note, model, device, text, windows, at_most, compute, progress);
  note_one_kind(note, model, found);
  return found;
}

}  // namespace swiftprune
