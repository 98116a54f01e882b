#include "swiftprune/api/text_writer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "swiftprune/api/option_values.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/model/end_tokens.h"
#include "swiftprune/model/first_token.h"

namespace swiftprune {

Writing::Writing(TextWriter& writer, std::span<const std::int32_t> prompt, const WritingOptions& options)
    : writer_(writer),
      turn_(++writer.turn_),
      max_tokens_(options.max_tokens),
      sampler_(options.sampler),
      stream_(writer.tokenizer(), prompt),
      prompt_tokens_(static_cast<std::int64_t>(prompt.size())) {
  writer.prepare(prompt_tokens_ + max_tokens_, prompt, options.goes_on);
  cached_tokens_ = std::ssize(writer.cached_);
  const Stopwatch watch(prefill_seconds_);
  logits_ = writer.append(prompt.subspan(writer.cached_.size()));
}

std::optional<std::string> Writing::next() {
  if (!stopped_by_.empty()) return std::nullopt;
  if (turn_ != writer_.turn_) bad_usage("this text ended when its model began another one");
  if (num_tokens_ == max_tokens_) {
    stopped_by_ = "length";
    return std::nullopt;
  }
  const Stopwatch watch(decode_seconds_);
  if (num_tokens_ > 0) logits_ = writer_.append(std::array{last_});
  last_ = sampler_.next(logits_.row_span(0));
  if (std::binary_search(writer_.ends_.begin(), writer_.ends_.end(), last_)) {
    stopped_by_ = "eos";
    return std::nullopt;
  }
  ++num_tokens_;
  return stream_.add(last_);
}

TextWriter::TextWriter(const std::filesystem::path& folder, Device& device, ComputeType compute,
                       const LoadOptions& load, const std::filesystem::path& adapter)
    : model_(Model::open(folder, adapter)), device_(device), compute_(compute), load_(load) {
  device_.check_model(*model_);
  tokenizer_ = Tokenizer::open(folder);
  ends_ = end_tokens(*model_, *tokenizer_);
}

const templates::ChatTemplates* TextWriter::chat() {
  if (!chat_) chat_ = templates::ChatTemplates::open(model_->checkpoint().folder());
  return *chat_ ? &**chat_ : nullptr;
}

std::vector<std::int32_t> TextWriter::prompt(std::string_view text) const {
  std::vector<std::int32_t> ids = tokenizer_->encode(text);
  if (ids.empty()) ids.push_back(first_token(*model_));
  return ids;
}

std::vector<std::int32_t> TextWriter::prompt(const templates::ChatRequest& request) {
  const templates::ChatTemplates* found = chat();
  if (found == nullptr) {
    bad_input("{}: found no chat template, which a conversation needs",
              model_->checkpoint().folder().string());
  }
  std::vector<std::int32_t> ids = tokenizer_->encode(found->render(request), false);
  if (ids.empty()) ids.push_back(first_token(*model_));
  return ids;
}

Writing TextWriter::write(std::span<const std::int32_t> prompt, const WritingOptions& options) {
  if (prompt.empty()) bad_usage("prompt: found no token, expected at least one");
  check_value("max_tokens", options.max_tokens, option_values::kNewTokens);
  const SamplerOptions& sampler = options.sampler;
  check_value("temperature", sampler.temperature, option_values::kTemperature);
  check_value("top_p", sampler.top_p, option_values::kTopP);
  check_value("top_k", sampler.top_k, option_values::kTopK);
  check_value("min_p", sampler.min_p, option_values::kMinP);
  model_->check_length(static_cast<std::int64_t>(prompt.size()) + options.max_tokens,
                       "--prompt and --max-tokens");
  return {*this, prompt, options};
}

void TextWriter::use_chat_template(const std::filesystem::path& file) {
  chat_ = templates::ChatTemplates::from_file(file, model_->checkpoint().folder());
}

void TextWriter::prepare(std::int64_t positions, std::span<const std::int32_t> prompt, bool goes_on) {
  if (goes_on && !cached_.empty() && prompt.size() > cached_.size() && positions <= capacity_ &&
      std::ranges::equal(cached_, prompt.first(cached_.size())))
    return;
  cached_.clear();
  if (generator_ == nullptr || positions > capacity_) {
    // A conversation grows: twice as many spare it another loading of the weights at each answer.
    const std::int64_t wanted = goes_on ? 2 * positions : positions;
    capacity_ = std::min(std::max(wanted, 2 * capacity_), model_->config().max_positions);
    generator_.reset();  // two of them may not fit into memory
    generator_ = device_.generator(*model_, compute_, 1, capacity_, load_);
  }
  generator_->restart();
}

ConstMatrixView TextWriter::append(std::span<const std::int32_t> ids) {
  // An interrupt leaves something unfinished in the generator.
  std::vector<std::int32_t> before = std::exchange(cached_, {});
  const ConstMatrixView logits = generator_->append(ids);
  before.insert(before.end(), ids.begin(), ids.end());
  cached_ = std::move(before);
  return logits;
}

}  // namespace swiftprune
