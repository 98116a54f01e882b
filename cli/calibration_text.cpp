#include "calibration_text.h"

#include "model_text.h"
#include "swiftprune/calibration/self_text.h"

namespace swiftprune::cli {

void add_calibration_flags(CLI::App& command, CalibrationText& text) {
  command
      .add_option("--calibration,--ids", text.source,
                  "Text (.txt, .jsonl), token ids (.u16, .u32), or self: text that the model writes itself")
      ->capture_default_str();
  command.add_option("--field", text.field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command.add_option("--seqlen", text.seqlen, "Tokens a window")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 24));
  command.add_option("--seed", text.seed, "Seed of the draws of text")->capture_default_str();
}

TokenWindows calibration_windows(const Model& model, const Backend& backend, const CalibrationText& text,
                                 std::int64_t windows, ComputeType compute, const ProgressFn& progress) {
  model.check_length(text.seqlen, "--seqlen");
  if (text.source == "self") {
    SelfTextOptions self;
    self.windows = windows;
    self.seqlen = text.seqlen;
    self.seed = text.seed;
    self.first_token = first_token(model);
    self.compute = compute;
    self.progress = progress;
    return self_text(model, backend, self);
  }
  if (holds_ids(text.source)) {
    WindowOptions options;
    options.seqlen = text.seqlen;
    options.max_windows = windows;
    return windows_of_ids(read_token_ids(text.source, model.config().vocab_size), text.source, options);
  }
  const auto tokenizer = Tokenizer::open(model.checkpoint().folder());
  return sample_windows(*tokenizer, read_corpus(text.source, text.field), windows, text.seqlen, text.seed);
}

}  // namespace swiftprune::cli
