// The part of OpenAI's HTTP interface that a completion needs: bodies to requests and results to bodies. Pure
// functions; server.h does the HTTP.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/serving/scheduler.h"
#include "swiftprune/templates/chat_template.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

struct ApiLimits {
  std::int64_t max_prompt_tokens = 2048;
  std::int64_t max_tokens =
      1024;                      // of an answer; also the default where the body names none, but at most 256
  std::int64_t capacity = 4096;  // prompt and answer
};

struct ApiRequest {
  GenerationRequest generation;
  std::vector<std::string> stop;  // texts that end the answer and are not part of it
  bool stream = false;
  bool include_usage = false;  // a last chunk with the counts
  bool chat = false;
};

// A refusal: an HTTP status and OpenAI's error object.
struct ApiError {
  int status = 400;
  std::string type;  // "invalid_request_error", ...
  std::string message;
};
nlohmann::ordered_json to_json(const ApiError& error);

// Bodies of /v1/completions and /v1/chat/completions. Throws ApiError.
ApiRequest parse_completion(const std::string& body, const Tokenizer& tokenizer, const ApiLimits& limits);
// chat: the model folder's templates; null: it has none.
ApiRequest parse_chat(const std::string& body, const Tokenizer& tokenizer,
                      const templates::ChatTemplates* chat, const ApiLimits& limits);

// Text that arrives in pieces, cut at the first stop text. What could be the beginning of one is held back.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // What of the text so far can be shown; `found` tells whether a stop text came.
  std::string add(std::string_view piece);
  std::string rest();  // at the end
  bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

// Objects of the answers. id: of the request; finish: "stop", "length", ... or empty while it goes on.
struct ApiAnswer {
  std::string id;
  std::string model;
  std::int64_t created = 0;  // seconds since 1970
  bool chat = false;
};
nlohmann::ordered_json whole_answer(const ApiAnswer& answer, const std::string& text,
                                    const std::string& finish, std::int64_t prompt_tokens,
                                    std::int64_t completion_tokens);
nlohmann::ordered_json answer_chunk(const ApiAnswer& answer, const std::string& text,
                                    const std::string& finish, bool first);
nlohmann::ordered_json usage_chunk(const ApiAnswer& answer, std::int64_t prompt_tokens,
                                   std::int64_t completion_tokens);

}  // namespace swiftprune
