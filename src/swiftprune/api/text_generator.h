// A model that is opened once and writes as often as it is asked: what `swiftprune generate` does, with errors as values
// (api/text_writer.h is the same with exceptions, token by token).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "swiftprune/api/job.h"
#include "swiftprune/api/text_writer.h"
#include "swiftprune/checkpoint/model_location.h"

namespace swiftprune {

struct GeneratedText {
  std::string text;
  std::string stopped_by;  // as Writing::stopped_by()
  std::int64_t prompt_tokens = 0, num_tokens = 0;
  double prefill_seconds = 0.0, decode_seconds = 0.0;

  double decode_tokens_per_second() const;
};

// Takes each piece of a text when it is there.
using PieceFn = std::function<void(std::string_view)>;
// What a text that was begun comes to. The rest of an incomplete character is in the result alone.
GeneratedText write_to_end(
    Writing& writing, const PieceFn& on_piece = [](std::string_view) {});

struct TextGeneratorOptions {
  std::string model;         // as locate_model()
  std::string adapter = {};  // as Model::open(); empty: none
  JobDevice where = {.compute = "f32"};
  LoadOptions load = {.tune = true};
};

class TextGenerator {
 public:
  // Weights are loaded by the first text. The context's note hears what is noticed while reading.
  static Outcome<std::shared_ptr<TextGenerator>> open(const TextGeneratorOptions& options,
                                                      const JobContext& context = {});

  // Goes on with a text, or answers a conversation through the model's chat template. An interrupted call is an error;
  // the generator may be asked again. One call at a time.
  Outcome<GeneratedText> generate(
      std::string_view prompt, const WritingOptions& options = {}, const JobContext& context = {},
      const PieceFn& on_piece = [](std::string_view) {});
  Outcome<GeneratedText> generate(
      const templates::ChatRequest& conversation, const WritingOptions& options = {},
      const JobContext& context = {}, const PieceFn& on_piece = [](std::string_view) {});

  const Model& model() const { return writer_->model(); }
  const Tokenizer& tokenizer() const { return writer_->tokenizer(); }

 private:
  TextGenerator() = default;

  LocatedModel location_;  // a GGUF file's folder lives as long
  std::unique_ptr<Device> device_;
  std::unique_ptr<TextWriter> writer_;
};

}  // namespace swiftprune
