// What a model writes after a list of prompts (greedily), and how far a pruned model's answers drift from the
// dense model's: where they part, how long they are, how much they repeat, whether they end in loops, which questions
// are answered right, and which answers still match what a user accepts (refusals).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/sequence_generator.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

struct Prompt {
  std::string where;                // "<file>: line <n>"
  std::string text;                 // as the model gets it; special tokens in it are recognised
  std::vector<std::string> accept;  // regular expressions, one of which the answer is to match; may be empty
  std::vector<std::string> right = {};  // the answers that are right, of a question; else empty
};
// .jsonl: {"prompt": "...", "answer": "..." or ["...", ...], "accept": ["regex", ...]} a line, the last two where
// there are any; any other name: one prompt a line.
// Throws Error{kBadInput} naming the line.
std::vector<Prompt> read_prompts(const std::filesystem::path& file);

struct Answer {
  std::vector<std::int32_t> ids;  // without the end token
  std::string text;
  bool ended = false;  // by the end token, not by the limit
  // Share of its 4-grams of tokens that stood in the answer before; 0 for fewer than two of them.
  double repetition = 0.0;
  bool loops = false;  // its end (ends_in_loop())
};

struct AnswerSet {
  std::vector<Answer> answers;  // one a prompt
  double decode_tokens_per_second = 0.0;
};

struct AnswerOptions {
  std::int64_t max_tokens = 64;
  ProgressFn progress;  // stage "generate", in prompts
};
// Greedy; make_generator: of this model. Throws Error{kBadInput} naming the prompt that does not fit in the
// model's positions.
AnswerSet generate_answers(const Model& model, const GeneratorMaker& make_generator,
                           const Tokenizer& tokenizer, std::span<const Prompt> prompts,
                           const AnswerOptions& options);

struct GenerationDrift {
  double identical = 0.0;  // share of prompts with the same answer
  double mean_common_tokens =
      0.0;                   // tokens before the answers part (all of the shorter one when they do not)
  double mean_tokens = 0.0;  // length of the pruned model's answers
  double dense_mean_tokens = 0.0;
  double repetition = 0.0;  // mean over the pruned model's answers
  double dense_repetition = 0.0;
  std::vector<std::int64_t> common_tokens;  // of each prompt
  double loops = 0.0, dense_loops = 0.0;    // shares of the answers that end in a loop
  double new_loops = 0.0;                   // of those that do where the dense model's do not
  std::int64_t questions = 0;               // prompts with right answers
  std::int64_t exact = 0, dense_exact = 0;  // of them answered right
};
// prompts: for the questions among them; may be empty.
GenerationDrift drift(const AnswerSet& dense, const AnswerSet& pruned, std::span<const Prompt> prompts = {});

double repetition(std::span<const std::int32_t> ids);
// Are the last tokens one and the same n-gram three times or more, over 12 tokens at least?
bool ends_in_loop(std::span<const std::int32_t> ids);
// Does the text begin with one of the right answers, after blanks, and not go on with a letter or a digit?
bool is_right(std::span<const std::string> right, std::string_view text);

// Which answers match one of their prompt's patterns; patterns are those of text/regex.h
// ("(?i)cannot|can't"). Throws Error{kBadInput} for a prompt without patterns or a pattern that is none.
std::vector<bool> accepted(std::span<const Prompt> prompts, const AnswerSet& generation);

}  // namespace swiftprune
