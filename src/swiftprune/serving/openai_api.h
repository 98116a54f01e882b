// The part of OpenAI's HTTP interface that a completion needs: bodies to requests. Pure functions;
// request_fields.h has the fields, answer_json.h the way back, server.h the HTTP.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/serving/generation.h"
#include "swiftprune/serving/request_fields.h"
#include "swiftprune/serving/token_table.h"
#include "swiftprune/templates/chat_template.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

struct ApiLimits {
  std::int64_t max_prompt_tokens = 2048;
  std::int64_t max_tokens =
      1024;                      // of an answer; also the default where the body names none, but at most 256
  std::int64_t capacity = 4096;  // prompt and answer
  std::string memory_option =
      {};  // where there is no memory for more than `capacity`: what it was limited by
  std::int64_t max_answers = 128;  // of one request: prompts times n
};

// What requests are read for.
struct ApiModel {
  const Tokenizer& tokenizer;
  std::int64_t vocab_size = 0;             // of the model: its tokenizer may know more tokens
  std::vector<std::int32_t> end_tokens;    // end_tokens() of the model
  std::shared_ptr<LazyTokenTable> tokens;  // for response_format
};

struct ApiRequest {
  std::vector<GenerationRequest> generations;  // n for each prompt, prompt by prompt
  std::vector<std::string> prompt_texts;       // of each prompt
  std::size_t answers_per_prompt = 1;          // n
  std::vector<std::string> stop;               // texts that end the answer and are not part of it
  std::int64_t min_tokens = 0;                 // stop texts count behind so many
  std::uint64_t seed = 0;                      // asked for, or drawn
  bool echo = false;                           // the prompt's text before the answer's
  bool stream = false;
  bool include_usage = false;  // a last chunk with the counts
  bool chat = false;

  const GenerationRequest& first() const { return generations.front(); }
};

// Bodies of /v1/completions and /v1/chat/completions. Throws ApiError.
ApiRequest parse_completion(const std::string& body, const ApiModel& model, const ApiLimits& limits);
// chat: the model folder's templates; null: it has none.
ApiRequest parse_chat(const std::string& body, const ApiModel& model, const templates::ChatTemplates* chat,
                      const ApiLimits& limits);

}  // namespace swiftprune
