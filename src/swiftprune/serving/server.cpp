#include "swiftprune/serving/server.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>

#include <fmt/format.h>
#include <httplib.h>

#include "swiftprune/core/error.h"
#include "swiftprune/text/text_stream.h"

namespace swiftprune {
namespace {

constexpr std::chrono::milliseconds kPatience{250};  // between two looks at whether a client is still there
constexpr std::size_t kSpareThreads = 16;  // for health, metrics and refusals beside waiting requests

// One request's tokens as text, until its end.
class AnswerText {
 public:
  AnswerText(const Tokenizer& tokenizer, const ApiRequest& request, Generation& generation)
      : stream_(tokenizer), filter_(request.stop), generation_(generation) {}

  // Takes one event; the text that can be shown now. After the last one finish() is set.
  std::string take(const Generation::Event& event) {
    if (event.token) {
      ++tokens_;
      std::string text = filter_.add(stream_.add(*event.token));
      if (filter_.found()) {
        finish_ = "stop";
        generation_.cancel();
      }
      return text;
    }
    std::string text = filter_.add(stream_.rest());
    text += filter_.rest();
    finish_ = filter_.found() ? "stop" : name_of(*event.finished);
    return text;
  }
  const std::string& finish() const { return finish_; }
  std::int64_t tokens() const { return tokens_; }

 private:
  static std::string name_of(FinishReason reason) {
    switch (reason) {
      case FinishReason::kStop:
        return "stop";
      case FinishReason::kLength:
        return "length";
      case FinishReason::kTimeout:
        return "timeout";
      case FinishReason::kCancelled:
        return "cancelled";
      case FinishReason::kShutdown:
        return "shutdown";
    }
    return "?";
  }

  TextStream stream_;
  StopFilter filter_;
  Generation& generation_;
  std::string finish_;
  std::int64_t tokens_ = 0;
};

void answer(httplib::Response& response, int status, const nlohmann::ordered_json& body) {
  response.status = status;
  // Bytes of a text that are not UTF-8 become U+FFFD.
  response.set_content(body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                       "application/json");
}

void answer(httplib::Response& response, const ApiError& error) {
  if (error.status == 429 || error.status == 503) response.set_header("Retry-After", "1");
  answer(response, error.status, to_json(error));
}

std::string event_line(const nlohmann::ordered_json& chunk) {
  return "data: " + chunk.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n\n";
}

}  // namespace

struct Server::Impl {
  Impl(const std::filesystem::path& model, SequenceEngine& engine, const Tokenizer& tokenizer_,
       const ServerOptions& options_)
      : tokenizer(tokenizer_),
        options(options_),
        chat_templates(options_.chat_template.empty()
                           ? templates::ChatTemplates::open(model)
                           : templates::ChatTemplates::from_file(options_.chat_template, model)),
        lanes(engine.num_lanes()),
        scheduler(engine, options_.scheduler),
        start(std::chrono::steady_clock::now()) {}

  const Tokenizer& tokenizer;
  const ServerOptions options;
  const std::optional<templates::ChatTemplates> chat_templates;
  const std::int64_t lanes;
  Scheduler scheduler;
  std::chrono::steady_clock::time_point start;
  std::atomic<std::int64_t> next_id = 0;
  httplib::Server http;
  int port = 0;
  socket_t listening = INVALID_SOCKET;  // the last that the library made: the one it bound

  void set_up() {
    const std::size_t threads =
        options.scheduler.max_waiting + static_cast<std::size_t>(lanes) + kSpareThreads;
    http.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
    http.set_payload_max_length(options.max_body_bytes);
    http.set_read_timeout(options.client_timeout_seconds, 0);
    http.set_write_timeout(options.client_timeout_seconds, 0);
    http.set_keep_alive_timeout(5);
    http.set_keep_alive_max_count(1000);
    http.set_tcp_nodelay(true);
    // Not the library's SO_REUSEPORT: two servers on one port would share its requests.
    http.set_socket_options([this](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
      listening = socket;
    });
    http.Get("/health", [this](const httplib::Request&, httplib::Response& response) {
      answer(response, scheduler.stopped() ? 503 : 200,
             {{"status", scheduler.stopped() ? "stopping" : "ok"}});
    });
    http.Get("/v1/models", [this](const httplib::Request&, httplib::Response& response) {
      answer(response, 200,
             {{"object", "list"},
              {"data",
               {{{"id", options.model_name}, {"object", "model"}, {"created", 0}, {"owned_by", "local"}}}}});
    });
    http.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(metrics(), "text/plain; version=0.0.4");
    });
    http.Post("/v1/completions", [this](const httplib::Request& request, httplib::Response& response) {
      serve(response, [&] { return parse_completion(request.body, tokenizer, options.limits); });
    });
    http.Post("/v1/chat/completions", [this](const httplib::Request& request, httplib::Response& response) {
      serve(response, [&] {
        return parse_chat(request.body, tokenizer, chat_templates ? &*chat_templates : nullptr,
                          options.limits);
      });
    });
    http.set_error_handler([this](const httplib::Request& request, httplib::Response& response) {
      if (!response.body.empty()) return;
      const std::string message =
          response.status == 404   ? fmt::format("no such path: {}", request.path.substr(0, 128))
          : response.status == 413 ? fmt::format("the body is larger than {} bytes", options.max_body_bytes)
                                   : "the request could not be read";
      answer(response, ApiError{response.status, "invalid_request_error", message});
    });
    http.set_exception_handler(
        [](const httplib::Request&, httplib::Response& response, const std::exception_ptr& e) {
          try {
            std::rethrow_exception(e);
          } catch (const std::exception& error) {
            answer(response, ApiError{500, "server_error", error.what()});
          }
        });
    if (!(options.port == 0 ? (port = http.bind_to_any_port(options.host)) > 0
                            : http.bind_to_port(options.host, port = options.port))) {
      fail(ErrorKind::kFailure, "--port: {}:{} cannot be bound; is another server running there?",
           options.host, options.port);
    }
    // The library asks for room for five connections that nobody accepted yet; of more at once some are
    // reset.
    if (::listen(listening, SOMAXCONN) != 0) {
      fail(ErrorKind::kFailure, "--port: {}:{}: {}", options.host, port, std::strerror(errno));
    }
  }

  void serve(httplib::Response& response, const std::function<ApiRequest()>& parse) {
    try {
      const auto request = std::make_shared<ApiRequest>(parse());
      const auto generation = scheduler.submit(request->generation);
      if (generation == nullptr) {
        throw scheduler.stopped()
            ? ApiError{503, "server_error", "the server is stopping"}
            : ApiError{429, "rate_limit_error",
                       fmt::format("the queue is full: {} requests are waiting; try again later",
                                   options.scheduler.max_waiting)};
      }
      ApiAnswer head;
      head.id = fmt::format("{}-{}", request->chat ? "chatcmpl" : "cmpl", next_id++);
      head.model = options.model_name;
      head.created = std::chrono::duration_cast<std::chrono::seconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
      head.chat = request->chat;
      request->stream ? stream(response, request, generation, head)
                      : whole(response, *request, *generation, head);
    } catch (const ApiError& error) {
      answer(response, error);
    }
  }

  void whole(httplib::Response& response, const ApiRequest& request, Generation& generation,
             const ApiAnswer& head) {
    AnswerText text(tokenizer, request, generation);
    std::string all;
    while (text.finish().empty()) {
      if (const auto event = generation.next(kPatience)) all += text.take(*event);
    }
    if (text.finish() == "timeout") {
      throw ApiError{504, "timeout_error",
                     fmt::format("no answer within {} seconds", options.scheduler.timeout.count())};
    }
    if (text.finish() == "shutdown") throw ApiError{503, "server_error", "the server is stopping"};
    answer(response, 200,
           whole_answer(head, all, text.finish(),
                        static_cast<std::int64_t>(generation.request().prompt.size()), text.tokens()));
  }

  void stream(httplib::Response& response, const std::shared_ptr<ApiRequest>& request,
              const std::shared_ptr<Generation>& generation, const ApiAnswer& head) {
    const auto text = std::make_shared<AnswerText>(tokenizer, *request, *generation);
    const auto first = std::make_shared<bool>(true);
    response.set_chunked_content_provider(
        "text/event-stream",
        [=](std::size_t, httplib::DataSink& sink) {
          const auto event = generation->next(kPatience);
          if (!sink.is_writable()) return false;
          if (!event) return true;
          const std::string piece = text->take(*event);
          const bool end = !text->finish().empty();
          std::string lines;
          if (!piece.empty() || end || *first)
            lines = event_line(answer_chunk(head, piece, text->finish(), std::exchange(*first, false)));
          if (end) {
            if (request->include_usage) {
              lines += event_line(usage_chunk(
                  head, static_cast<std::int64_t>(generation->request().prompt.size()), text->tokens()));
            }
            lines += "data: [DONE]\n\n";
          }
          if (!lines.empty() && !sink.write(lines.data(), lines.size())) return false;
          if (end) sink.done();
          return true;
        },
        // Also when the client went away: the lane is free for others.
        [generation](bool) { generation->cancel(); });
  }

  std::string metrics() const {
    const SchedulerCounts c = scheduler.counts();
    const double uptime = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::string out;
    const auto add = [&](const char* name, const char* type, const char* help, auto value) {
      out += fmt::format("# HELP swiftprune_{0} {2}\n# TYPE swiftprune_{0} {1}\nswiftprune_{0} {3}\n", name,
                         type, help, value);
    };
    add("uptime_seconds", "gauge", "Seconds since the start.", uptime);
    add("requests_waiting", "gauge", "Requests in the queue.", c.waiting);
    add("requests_running", "gauge", "Requests that are decoded together.", c.running);
    add("requests_accepted_total", "counter", "Requests that entered the queue.", c.accepted);
    add("requests_refused_total", "counter", "Requests refused because the queue was full.", c.refused);
    add("requests_finished_total", "counter", "Requests answered to their end.", c.finished);
    add("requests_cancelled_total", "counter", "Requests whose client needed no more.", c.cancelled);
    add("requests_timed_out_total", "counter", "Requests that took too long.", c.timed_out);
    add("prompt_tokens_total", "counter", "Tokens of prompts.", c.prompt_tokens);
    add("generated_tokens_total", "counter", "Tokens generated.", c.generated_tokens);
    add("decode_steps_total", "counter", "Passes over the weights that gave each running request a token.",
        c.steps);
    return out;
  }
};

Server::Server(const std::filesystem::path& model, SequenceEngine& engine, const Tokenizer& tokenizer,
               const ServerOptions& options)
    : impl_(std::make_unique<Impl>(model, engine, tokenizer, options)) {
  impl_->set_up();
}

Server::~Server() = default;

int Server::port() const { return impl_->port; }

void Server::run() { impl_->http.listen_after_bind(); }

void Server::stop() {
  impl_->scheduler.stop();
  impl_->http.stop();
}

}  // namespace swiftprune
