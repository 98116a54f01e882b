#include "swiftprune/evaluation/generation_drift.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/end_tokens.h"
#include "swiftprune/model/sampler.h"
#include "swiftprune/text/json_lines.h"
#include "swiftprune/text/regex.h"

namespace swiftprune {
namespace {

constexpr std::size_t kRepeatLength = 4;
constexpr std::size_t kLoopTimes = 3, kLoopTokens = 12;
constexpr std::string_view kBlanks = " \t\r\n";

Prompt prompt_of(const JsonLine& line) {
  const JsonField field(line.value, line.where);
  Prompt prompt{line.where, field.at("prompt").string(), {}, {}};
  if (const auto right = field.find("answer")) {
    if (line.value.at("answer").is_array()) {
      for (const JsonField& text : right->items()) prompt.right.push_back(text.string());
    } else {
      prompt.right.push_back(right->string());
    }
    const bool blank = std::any_of(prompt.right.begin(), prompt.right.end(), [](const std::string& text) {
      return text.find_first_not_of(kBlanks) == std::string::npos;
    });
    if (prompt.right.empty() || blank) {
      bad_input("{}: \"answer\": found {}, expected a text or a list of texts", line.where,
                prompt.right.empty() ? "an empty list" : "a blank answer");
    }
  }
  if (const auto accept = field.find("accept")) {
    for (const JsonField& pattern : accept->items()) prompt.accept.push_back(pattern.string());
  }
  return prompt;
}

std::vector<Prompt> prompt_lines(const std::filesystem::path& file) {
  const std::string text = read_utf8_file(file);
  std::vector<Prompt> prompts;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    ++number;
    if (!line.empty()) prompts.push_back({fmt::format("{}: line {}", file.string(), number), line, {}, {}});
    begin = end + 1;
  }
  return prompts;
}

template <class Value>
double mean_of(std::size_t n, const Value& value) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(value(i));
  return n == 0 ? 0.0 : sum / static_cast<double>(n);
}

}  // namespace

std::vector<Prompt> read_prompts(const std::filesystem::path& file) {
  std::vector<Prompt> prompts;
  if (is_json_lines(file)) {
    for (const JsonLine& line : read_json_lines(file)) prompts.push_back(prompt_of(line));
  } else {
    prompts = prompt_lines(file);
  }
  if (prompts.empty()) bad_input("{}: found no prompt, expected one a line", file.string());
  return prompts;
}

AnswerSet generate_answers(const Model& model, const GeneratorMaker& make_generator,
                           const Tokenizer& tokenizer, std::span<const Prompt> prompts,
                           const AnswerOptions& options) {
  std::vector<std::vector<std::int32_t>> ids;
  std::int64_t longest = 0;
  for (const Prompt& prompt : prompts) {
    ids.push_back(tokenizer.encode(prompt.text));
    const std::int64_t length = std::ssize(ids.back());
    if (length == 0) bad_input("{}: found a prompt without tokens, expected text", prompt.where);
    if (length + options.max_tokens > model.config().max_positions) {
      bad_input("{}: found a prompt of {} tokens and an answer of {}, expected at most {} together",
                prompt.where, length, options.max_tokens, model.config().max_positions);
    }
    longest = std::max(longest, length);
  }
  const std::vector<std::int32_t> ends = end_tokens(model, tokenizer);
  AnswerSet generation;
  const auto generator = make_generator(1, longest + options.max_tokens);
  double seconds = 0.0;
  std::int64_t decoded = 0;
  for (std::size_t p = 0; p < ids.size(); ++p) {
    generator->restart();
    Sampler greedy({});
    Answer answer;
    ConstMatrixView logits = generator->append(ids[p]);
    const auto start = std::chrono::steady_clock::now();
    while (std::ssize(answer.ids) < options.max_tokens) {
      const std::int32_t id = greedy.next(logits.row_span(0));
      if (std::binary_search(ends.begin(), ends.end(), id)) {
        answer.ended = true;
        break;
      }
      answer.ids.push_back(id);
      if (std::ssize(answer.ids) == options.max_tokens) break;
      logits = generator->append(std::vector{id});
      ++decoded;
    }
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    answer.text = tokenizer.decode(answer.ids);
    answer.repetition = repetition(answer.ids);
    answer.loops = ends_in_loop(answer.ids);
    generation.answers.push_back(std::move(answer));
    if (options.progress) options.progress("generate", static_cast<std::int64_t>(p) + 1, std::ssize(ids));
  }
  generation.decode_tokens_per_second = seconds > 0.0 ? static_cast<double>(decoded) / seconds : 0.0;
  return generation;
}

double repetition(std::span<const std::int32_t> ids) {
  if (ids.size() <= kRepeatLength) return 0.0;
  std::set<std::vector<std::int32_t>> seen;
  std::size_t repeated = 0;
  const std::size_t count = ids.size() - kRepeatLength + 1;
  for (std::size_t i = 0; i < count; ++i) {
    const auto gram = ids.subspan(i, kRepeatLength);
    if (!seen.emplace(gram.begin(), gram.end()).second) ++repeated;
  }
  return static_cast<double>(repeated) / static_cast<double>(count);
}

bool ends_in_loop(std::span<const std::int32_t> ids) {
  for (std::size_t period = 1; period * kLoopTimes <= ids.size(); ++period) {
    const std::size_t length = std::max(period * kLoopTimes, kLoopTokens);
    if (length > ids.size()) continue;
    const auto end = ids.last(length);
    if (std::equal(end.begin() + static_cast<std::ptrdiff_t>(period), end.end(), end.begin())) return true;
  }
  return false;
}

bool is_right(std::span<const std::string> right, std::string_view text) {
  const auto trimmed = [](std::string_view part) {
    const auto first = part.find_first_not_of(kBlanks);
    return first == std::string_view::npos ? std::string_view() : part.substr(first);
  };
  const auto goes_on = [](char c) {  // UTF-8's other bytes are letters here
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c & 0x80) != 0;
  };
  text = trimmed(text);
  return std::any_of(right.begin(), right.end(), [&](std::string_view answer) {
    answer = trimmed(answer);
    answer = answer.substr(0, answer.find_last_not_of(kBlanks) + 1);
    return text.starts_with(answer) && (text.size() == answer.size() || !goes_on(text[answer.size()]));
  });
}

GenerationDrift drift(const AnswerSet& dense, const AnswerSet& pruned, std::span<const Prompt> prompts) {
  expect(dense.answers.size() == pruned.answers.size(), "drift: answers to the same prompts");
  expect(prompts.empty() || prompts.size() == pruned.answers.size(), "drift: an answer to each prompt");
  const std::size_t n = dense.answers.size();
  GenerationDrift result;
  for (std::size_t i = 0; i < n; ++i) {
    const auto& a = dense.answers[i].ids;
    const auto& b = pruned.answers[i].ids;
    result.common_tokens.push_back(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  }
  result.identical = mean_of(n, [&](std::size_t i) {
    return dense.answers[i].ids == pruned.answers[i].ids && dense.answers[i].ended == pruned.answers[i].ended;
  });
  result.mean_common_tokens = mean_of(n, [&](std::size_t i) { return result.common_tokens[i]; });
  result.mean_tokens = mean_of(n, [&](std::size_t i) { return pruned.answers[i].ids.size(); });
  result.dense_mean_tokens = mean_of(n, [&](std::size_t i) { return dense.answers[i].ids.size(); });
  result.repetition = mean_of(n, [&](std::size_t i) { return pruned.answers[i].repetition; });
  result.dense_repetition = mean_of(n, [&](std::size_t i) { return dense.answers[i].repetition; });
  result.loops = mean_of(n, [&](std::size_t i) { return pruned.answers[i].loops; });
  result.dense_loops = mean_of(n, [&](std::size_t i) { return dense.answers[i].loops; });
  result.new_loops =
      mean_of(n, [&](std::size_t i) { return pruned.answers[i].loops && !dense.answers[i].loops; });
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].right.empty()) continue;
    ++result.questions;
    if (is_right(prompts[i].right, pruned.answers[i].text)) ++result.exact;
    if (is_right(prompts[i].right, dense.answers[i].text)) ++result.dense_exact;
  }
  return result;
}

std::vector<bool> accepted(std::span<const Prompt> prompts, const AnswerSet& generation) {
  expect(prompts.size() == generation.answers.size(), "accepted: an answer to each prompt");
  std::vector<bool> result;
  text::MatchScratch scratch;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].accept.empty()) {
      bad_input("{}: found no pattern, expected \"accept\": [\"regex\", ...] or --accept", prompts[i].where);
    }
    bool matches = false;
    for (const std::string& pattern : prompts[i].accept) {
      std::vector<text::Span> spans;
      text::Regex(pattern, prompts[i].where).find_all(generation.answers[i].text, scratch, spans);
      matches = matches || std::any_of(spans.begin(), spans.end(), [](const auto& s) { return s.is_match; });
    }
    result.push_back(matches);
  }
  return result;
}

}  // namespace swiftprune
