// Answers as OpenAI's JSON objects.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include <nlohmann/json.hpp>

#include "swiftprune/serving/answer_text.h"

namespace swiftprune {

// What all objects of an answer begin with.
struct AnswerHead {
  std::string id;
  std::string model;
  std::int64_t created = 0;  // seconds since 1970
  std::uint64_t seed = 0;    // of the draws, so that the answer can be had again
  bool chat = false;
  bool logprobs = false;
};

struct AnswerChoice {
  std::size_t index = 0;
  AnswerText::Piece piece;
  std::string finish = {};  // empty while it goes on
};

struct AnswerUsage {
  std::int64_t prompt_tokens = 0, completion_tokens = 0;
  std::int64_t cached_tokens = 0;  // of the prompts, which were read before
};

nlohmann::ordered_json whole_answer(const AnswerHead& head, std::span<const AnswerChoice> choices,
                                    const AnswerUsage& usage);
// first: of its choice.
nlohmann::ordered_json answer_chunk(const AnswerHead& head, const AnswerChoice& choice, bool first);
nlohmann::ordered_json usage_chunk(const AnswerHead& head, const AnswerUsage& usage);

}  // namespace swiftprune
