#include "calibration_text.h"

#include <algorithm>
#include <iterator>

#include <fmt/ranges.h>

#include "model_text.h"
#include "swiftprune/calibration/self_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/model/first_token.h"

namespace swiftprune::cli {

std::string CalibrationText::source() const { return fmt::format("{}", fmt::join(sources, ", ")); }

CalibrationRecord CalibrationText::record(const TokenWindows& windows) const {
  return {source(), windows.hash(), windows.num_windows(), windows.seqlen, seed};
}

void CalibrationText::fit_to(const Model& model) {
  if (seqlen_given) model.check_length(seqlen, "--seqlen");
  seqlen = usual_length(model, seqlen);
}

void add_calibration_flags(CLI::App& command, CalibrationText& text) {
  command
      .add_option("--calibration,--ids", text.sources,
                  "Text (.txt, .jsonl, .json, also .gz and .zst; repeatable), token ids (.u16, .u32), or "
                  "self: text that "
                  "the model writes itself")
      ->capture_default_str();
  command.add_option("--field", text.field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command.add_option("--seqlen", text.seqlen, "Tokens a window; by default at most the model's positions")
      ->capture_default_str()
      ->each([&text](const std::string&) { text.seqlen_given = true; })
      ->check(CLI::Range(2, 1 << 24));
  command.add_option("--seed", text.seed, "Seed of the draws of text")->capture_default_str();
}

TokenWindows calibration_windows(const CommonOptions& common, const Model& model, Device& device,
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
  const auto ids = std::find_if(text.sources.begin(), text.sources.end(), holds_token_ids);
  if (ids != text.sources.end()) {
    if (text.sources.size() > 1)
      bad_usage("--calibration: found {} beside other files, expected token ids alone", *ids);
    std::vector<std::int32_t> tokens = read_token_ids(*ids, model.config().vocab_size);
    WindowOptions options;
    options.seqlen = text.seqlen;
    const std::int64_t found = static_cast<std::int64_t>(tokens.size()) / text.seqlen;
    options.max_windows = at_most ? std::clamp<std::int64_t>(found, 1, windows) : windows;
    return windows_of_ids(std::move(tokens), *ids, options);
  }
  Corpus corpus{text.source(), {}};
  for (const std::string& file : text.sources) {
    if (file == "self") bad_usage("--calibration: found self beside files, expected one or the other");
    Corpus part = read_corpus(file, text.field);
    corpus.notes.insert(corpus.notes.end(), part.notes.begin(), part.notes.end());
    std::move(part.documents.begin(), part.documents.end(), std::back_inserter(corpus.documents));
  }
  print_notes(common, corpus.notes);
  const auto tokenizer = Tokenizer::open(model.checkpoint().folder());
  return sample_windows(*tokenizer, corpus, windows, text.seqlen, text.seed, at_most);
}

}  // namespace swiftprune::cli
