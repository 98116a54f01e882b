// A model that writes text: opened once, asked as often as wanted. `generate` and the Python module are made
// of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/sampler.h"
#include "swiftprune/model/sequence_generator.h"
#include "swiftprune/templates/chat_template.h"
#include "swiftprune/text/text_stream.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

struct WritingOptions {
  std::int64_t max_tokens = 128;
  SamplerOptions sampler = {};
  // Where the prompt begins with all that stands in the cache (the text before this one, as in a conversation), only
  // what is new of it is read. Logits may differ from those of a prompt read whole in the last bits, as the order of
  // sums does.
  bool goes_on = false;
};

// One text, token by token. The writer must outlive it; it ends when the writer begins another one.
class Writing {
 public:
  // The text that one more token adds: empty where a token ends inside a UTF-8 character. Nothing at the end.
  // Throws Error{kUsage} when the writer has begun another text.
  std::optional<std::string> next();
  // What of an incomplete character is left at the end, as U+FFFD; else empty.
  std::string rest() { return stream_.rest(); }
  // "eos" (a token that ends a text), "length" (max_tokens); empty while it goes on.
  std::string_view stopped_by() const { return stopped_by_; }

  std::int64_t prompt_tokens() const { return prompt_tokens_; }
  std::int64_t cached_tokens() const { return cached_tokens_; }  // of the prompt, that were not read again
  std::int64_t num_tokens() const { return num_tokens_; }        // written
  double prefill_seconds() const { return prefill_seconds_; }
  double decode_seconds() const { return decode_seconds_; }

 private:
  friend class TextWriter;
  Writing(class TextWriter& writer, std::span<const std::int32_t> prompt, const WritingOptions& options);

  class TextWriter& writer_;
  std::int64_t turn_;  // the writer's, when this one began
  std::int64_t max_tokens_;
  Sampler sampler_;
  TextStream stream_;
  ConstMatrixView logits_;  // of the last token
  std::int32_t last_ = 0;
  std::int64_t prompt_tokens_, cached_tokens_ = 0, num_tokens_ = 0;
  double prefill_seconds_ = 0.0, decode_seconds_ = 0.0;
  std::string_view stopped_by_;
};

class TextWriter {
 public:
  // folder, adapter: as Model::open(). The device must outlive the writer. Throws Error{kBadInput} for a folder
  // without a tokenizer, Error{kUsage} for a model that the device cannot run.
  TextWriter(const std::filesystem::path& folder, Device& device, ComputeType compute,
             const LoadOptions& load = {.tune = true}, const std::filesystem::path& adapter = {});

  const Model& model() const { return *model_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  // The folder's chat template, read when it is first asked for; null where there is none.
  const templates::ChatTemplates* chat();
  // Takes a Jinja file's in its place. Throws Error{kBadInput}.
  void use_chat_template(const std::filesystem::path& file);

  // The text's ids; of an empty text the token that texts begin with.
  std::vector<std::int32_t> prompt(std::string_view text) const;
  // The conversation's ids, as the chat template writes it. Throws Error{kBadInput} where there is no template.
  std::vector<std::int32_t> prompt(const templates::ChatRequest& request);

  // Reads the prompt [T]. Weights are loaded by the first text, and again by one that is more than the cached
  // positions hold. Throws Error{kUsage} when prompt and max_tokens are more than the model's positions.
  Writing write(std::span<const std::int32_t> prompt, const WritingOptions& options = {});

 private:
  friend class Writing;
  // The generator for so many positions; empty, unless `prompt` goes on where the cache ends.
  void prepare(std::int64_t positions, std::span<const std::int32_t> prompt, bool goes_on);
  ConstMatrixView append(std::span<const std::int32_t> ids);

  std::unique_ptr<Model> model_;
  Device& device_;
  ComputeType compute_;
  LoadOptions load_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<std::int32_t> ends_;  // tokens that end a text, ascending
  std::optional<std::optional<templates::ChatTemplates>> chat_;
  std::unique_ptr<SequenceGenerator> generator_;
  std::int64_t capacity_ = 0;         // positions of generator_
  std::vector<std::int32_t> cached_;  // what stands in it
  std::int64_t turn_ = 0;             // texts begun
};

}  // namespace swiftprune
