// OpenAI's completions and chat completions over HTTP: one model, continuous batching, bounded everywhere.
//   POST /v1/completions, /v1/chat/completions (also streamed); GET /v1/models, /v1/models/NAME, /health,
//   /metrics; OPTIONS on each
// Full queue: 429; stopping, or a lost device: 503; a request that took too long: 504. Every refusal has
// OpenAI's error object with a reason.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/serving/openai_api.h"
#include "swiftprune/serving/scheduler.h"

namespace swiftprune {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                      // 0: any free one
  std::string model_name;               // in answers
  std::filesystem::path chat_template;  // in place of the folder's; empty: the folder's
  std::size_t max_body_bytes = 1 << 20;
  int client_timeout_seconds = 10;    // of reading a request or writing to a client that does not move
  std::string cors_origin;            // who may call from a browser; empty: nobody, "*": everybody
  std::vector<std::string> api_keys;  // one of them is asked for, except by /health; empty: none
  std::int64_t max_per_client = 0;    // requests of one address at a time; 0: any number
  bool page = true;                   // a chat page at "/"
  std::string beside;                 // whose answers the page shows, too: make_chat_page()
  ApiLimits limits;
  SchedulerOptions scheduler;
};

class Server {
 public:
  // Keeps references to the engine, whose capacity is limits.capacity at least, and to the tokenizer. Throws
  // Error{kFailure} when the address cannot be bound.
  Server(const Model& model, SequenceEngine& engine, const Tokenizer& tokenizer,
         const ServerOptions& options);
  ~Server();

  int port() const;
  // Serves until stop(), which may be called from any thread.
  void run();
  // Requests under way end with an error that says so; their clients get a few seconds to read it.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The keys of a file: one a line, blank lines and lines that begin with # aside. Throws Error{kBadInput}.
std::vector<std::string> read_api_keys(const std::string& file);

}  // namespace swiftprune
