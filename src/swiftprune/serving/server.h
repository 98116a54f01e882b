// OpenAI's completions and chat completions over HTTP: one model, continuous batching, bounded everywhere.
//   POST /v1/completions, /v1/chat/completions (also streamed); GET /v1/models, /health, /metrics
// Full queue: 429; stopping: 503; a request that took too long: 504. Every refusal has OpenAI's error object
// with a reason.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "swiftprune/serving/openai_api.h"
#include "swiftprune/serving/scheduler.h"

namespace swiftprune {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                      // 0: any free one
  std::string model_name;               // in answers
  std::filesystem::path chat_template;  // in place of the folder's; empty: the folder's
  std::size_t max_body_bytes = 1 << 20;
  int client_timeout_seconds = 10;  // of reading a request or writing to a client that does not move
  ApiLimits limits;
  SchedulerOptions scheduler;
};

class Server {
 public:
  // model: its folder, for the chat template. Keeps references to the engine, whose capacity is
  // limits.capacity, and to the tokenizer. Throws Error{kFailure} when the address cannot be bound.
  Server(const std::filesystem::path& model, SequenceEngine& engine, const Tokenizer& tokenizer,
         const ServerOptions& options);
  ~Server();

  int port() const;
  // Serves until stop(), which may be called from any thread.
  void run();
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftprune
