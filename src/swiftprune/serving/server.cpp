#include "swiftprune/serving/server.h"

#include <netdb.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/end_tokens.h"
#include "swiftprune/serving/answer_json.h"
#include "swiftprune/serving/chat_page.h"
#include "swiftprune/serving/http_front.h"
#include "swiftprune/serving/metrics.h"

namespace swiftprune {
namespace {

constexpr std::chrono::milliseconds kPatience{250};  // between two looks at whether a client is still there
constexpr std::chrono::milliseconds kShortPatience{10};  // the same where several answers are written
constexpr std::chrono::seconds kFarewell{3};             // for clients to read why their answer ends
constexpr std::size_t kSpareThreads = 16;  // for health, metrics and refusals beside waiting requests

// The answers to one request, as far as they are written. Nobody reads them any more when it goes.
struct Answers {
  Answers(const Tokenizer& tokenizer, ApiRequest asked, std::vector<std::shared_ptr<Generation>> running)
      : request(std::move(asked)), generations(std::move(running)), begun(generations.size(), false) {
    for (std::size_t i = 0; i < generations.size(); ++i)
      texts.push_back(std::make_unique<AnswerText>(tokenizer, request, i, *generations[i]));
  }
  Answers(const Answers&) = delete;
  Answers& operator=(const Answers&) = delete;
  ~Answers() {
    for (const auto& generation : generations) generation->cancel();
  }

  AnswerUsage usage() const {
    AnswerUsage usage;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      usage.completion_tokens += texts[i]->tokens();
      usage.cached_tokens += generations[i]->reused();
      if (i % request.answers_per_prompt == 0)
        usage.prompt_tokens += std::ssize(request.generations[i].prompt);
    }
    return usage;
  }

  const ApiRequest request;
  const std::vector<std::shared_ptr<Generation>> generations;
  std::vector<std::unique_ptr<AnswerText>> texts;
  std::vector<bool> begun;  // streams: its first piece was written
  AnswerHead head;
  std::shared_ptr<void> place;      // among its client's requests
  std::shared_ptr<void> under_way;  // counts it among the streams
};

std::int64_t modified(const std::filesystem::path& file) {
  struct stat status {};
  return ::stat(file.c_str(), &status) == 0 ? status.st_mtime : 0;
}

std::string event_line(const nlohmann::ordered_json& chunk) { return "data: " + dumped(chunk) + "\n\n"; }

void check_host(const std::string& host) {
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), nullptr, nullptr, &found); error != 0)
    bad_usage("--host: found '{}', expected an address or name of this machine ({})", host,
              ::gai_strerror(error));
  ::freeaddrinfo(found);
}

}  // namespace

struct Server::Impl {
  Impl(const Model& model, SequenceEngine& engine, const Tokenizer& tokenizer_, const ServerOptions& options_)
      : tokenizer(tokenizer_),
        options(options_),
        api{tokenizer_, model.config().vocab_size, end_tokens(model, tokenizer_),
            std::make_shared<LazyTokenTable>(tokenizer_)},
        chat_templates(
            options_.chat_template.empty()
                ? templates::ChatTemplates::open(model.checkpoint().folder())
                : templates::ChatTemplates::from_file(options_.chat_template, model.checkpoint().folder())),
        page(options_.page ? std::optional(make_chat_page(chat_templates.has_value(), options_.beside))
                           : std::nullopt),
        created(modified(model.checkpoint().folder() / "config.json")),
        lanes(engine.num_lanes()),
        clients(options_.max_per_client),
        front({options_.max_body_bytes, options_.cors_origin, options_.api_keys}, routes()),
        scheduler(engine, options_.scheduler),
        limits(options_.limits),
        start(std::chrono::steady_clock::now()) {
    limits.max_answers = std::min(limits.max_answers, static_cast<std::int64_t>(scheduler.max_requests()));
  }

  const Tokenizer& tokenizer;
  const ServerOptions options;
  const ApiModel api;
  const std::optional<templates::ChatTemplates> chat_templates;
  const std::optional<ChatPage> page;
  const std::int64_t created;
  const std::int64_t lanes;
  ClientLimits clients;
  HttpFront front;
  Scheduler scheduler;
  ApiLimits limits;
  std::chrono::steady_clock::time_point start;
  std::atomic<std::int64_t> next_id = 0;
  std::atomic<std::int64_t> streams = 0;  // under way, from before their first token
  HttpServer http;
  int port = 0;
  socket_t listening = INVALID_SOCKET;  // the last that the library made: the one it bound

  std::vector<HttpFront::Route> routes() {
    using Request = httplib::Request;
    using Response = httplib::Response;
    using std::string;
    std::vector<HttpFront::Route> result = {
        {"GET", "/health", true,
         [this](const Request&, const string&, Response& response) { health(response); }},
        {"GET", "/metrics", false,
         [this](const Request&, const string&, Response& response) {
           const std::chrono::duration<double> uptime = std::chrono::steady_clock::now() - start;
           response.status = 200;
           response.set_content(metrics_text(scheduler.counts(), uptime.count()),
                                "text/plain; version=0.0.4");
         }},
        {"GET", "/v1/models", false,
         [this](const Request&, const string&, Response& response) {
           answer(response, 200,
                  {{"object", "list"}, {"data", nlohmann::ordered_json::array({model_json()})}});
         }},
        {"GET", "/v1/models/", false,
         [this](const Request& request, const string&, Response& response) {
           if (request.path.substr(std::strlen("/v1/models/")) != options.model_name) {
             throw ApiError{404, "invalid_request_error",
                            fmt::format("no such model; this server has {}", options.model_name)};
           }
           answer(response, 200, model_json());
         }},
        {"POST", "/v1/completions", false,
         [this](const Request& request, const string& body, Response& response) {
           serve(request, response, [&] { return parse_completion(body, api, limits); });
         }},
        {"POST", "/v1/chat/completions", false,
         [this](const Request& request, const string& body, Response& response) {
           serve(request, response,
                 [&] { return parse_chat(body, api, chat_templates ? &*chat_templates : nullptr, limits); });
         }},
    };
    // Open, since a browser asks for it without a key: the page asks its reader for one.
    if (page) {
      result.push_back({"GET", "/", true, [this](const Request&, const string&, Response& response) {
                          response.status = 200;
                          response.set_header("Content-Security-Policy", page->policy);
                          response.set_header("X-Content-Type-Options", "nosniff");
                          response.set_header("Referrer-Policy", "no-referrer");
                          response.set_header("Cache-Control", "no-cache");
                          response.set_content(page->html, "text/html; charset=utf-8");
                        }});
    }
    return result;
  }

  void set_up() {
    const std::size_t threads =
        options.scheduler.max_waiting + static_cast<std::size_t>(lanes) + kSpareThreads;
    http.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
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
    front.attach(http);
    check_host(options.host);
    if (!(options.port == 0 ? (port = http.bind_to_any_port(options.host)) > 0
                            : http.bind_to_port(options.host, port = options.port))) {
      if (errno == EADDRNOTAVAIL)
        fail(ErrorKind::kFailure, "--host: {} is no address of this machine", options.host);
      fail(ErrorKind::kFailure, "--port: {}:{} cannot be bound; is another server running there?",
           options.host, options.port);
    }
    // The library asks for room for five connections that nobody accepted yet; of more at once some are
    // reset.
    if (::listen(listening, SOMAXCONN) != 0) {
      fail(ErrorKind::kFailure, "--port: {}:{}: {}", options.host, port, std::strerror(errno));
    }
  }

  void health(httplib::Response& response) const {
    if (const auto reason = scheduler.lost_engine()) {
      answer(response, 503, {{"status", "failed"}, {"reason", *reason}});
    } else {
      answer(response, scheduler.stopped() ? 503 : 200,
             {{"status", scheduler.stopped() ? "stopping" : "ok"}});
    }
  }

  nlohmann::ordered_json model_json() const {
    return {{"id", options.model_name}, {"object", "model"}, {"created", created}, {"owned_by", "local"}};
  }

  void serve(const httplib::Request& http_request, httplib::Response& response,
             const std::function<ApiRequest()>& parse) {
    std::shared_ptr<void> place = clients.enter(http_request.remote_addr);
    if (place == nullptr) {
      throw ApiError{429, "rate_limit_error",
                     fmt::format("{} requests of this client are under way already; try again later",
                                 options.max_per_client)};
    }
    ApiRequest request = parse();
    std::shared_ptr<void> under_way;
    if (request.stream) {
      ++streams;
      under_way = {&streams, [this](void*) { --streams; }};
    }
    auto generations = scheduler.submit(request.generations);
    if (generations.empty()) throw refusal();
    const auto answers = std::make_shared<Answers>(tokenizer, std::move(request), std::move(generations));
    answers->place = std::move(place);
    answers->under_way = std::move(under_way);
    answers->head = {
        .id = fmt::format("{}-{}", answers->request.chat ? "chatcmpl" : "cmpl", next_id++),
        .model = options.model_name,
        .created = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count(),
        .seed = answers->request.seed,
        .chat = answers->request.chat,
        .logprobs = answers->request.first().logprobs.has_value(),
    };
    answers->request.stream ? stream(response, answers) : whole(response, *answers);
  }

  ApiError refusal() const {
    if (const auto reason = scheduler.lost_engine()) return {503, "server_error", *reason};
    if (scheduler.stopped()) return {503, "server_error", "the server is stopping"};
    return {429, "rate_limit_error",
            fmt::format("the queue is full: {} requests may run and wait; try again later",
                        scheduler.max_requests())};
  }

  // What an answer ended with, when that is an error.
  std::optional<ApiError> error_of(const AnswerText& text) const {
    if (text.finish() == "error") return ApiError{500, "server_error", text.message()};
    if (text.finish() == "unavailable") return ApiError{503, "server_error", text.message()};
    if (text.finish() == "shutdown") return ApiError{503, "server_error", "the server is stopping"};
    return std::nullopt;
  }

  void whole(httplib::Response& response, Answers& answers) {
    std::vector<AnswerChoice> choices;
    for (std::size_t i = 0; i < answers.texts.size(); ++i) {
      AnswerText& text = *answers.texts[i];
      AnswerChoice choice{.index = i, .piece = {}};
      while (text.finish().empty()) {
        const auto event = answers.generations[i]->next(kPatience);
        if (!event) continue;
        AnswerText::Piece piece = text.take(*event);
        choice.piece.text += piece.text;
        std::move(piece.tokens.begin(), piece.tokens.end(), std::back_inserter(choice.piece.tokens));
      }
      if (const auto error = error_of(text)) throw *error;
      if (text.finish() == "timeout") {
        throw ApiError{504, "timeout_error",
                       fmt::format("no answer within {} seconds", options.scheduler.timeout.count())};
      }
      choice.finish = text.finish();
      choices.push_back(std::move(choice));
    }
    answer(response, 200, whole_answer(answers.head, choices, answers.usage()));
  }

  void stream(httplib::Response& response, const std::shared_ptr<Answers>& answers) {
    response.set_chunked_content_provider(
        "text/event-stream",
        [this, answers](std::size_t, httplib::DataSink& sink) {
          try {
            return write_more(*answers, sink);
          } catch (...) {
            return false;  // nothing may leave through the library
          }
        },
        // Also when the client went away: the lanes are free for others.
        [answers](bool) {
          for (const auto& generation : answers->generations) generation->cancel();
        });
  }

  // Writes what came; false when the client went away.
  bool write_more(Answers& answers, httplib::DataSink& sink) {
    std::string lines;
    std::size_t left = 0;
    bool end = false;
    for (std::size_t i = 0; i < answers.texts.size() && !end; ++i) {
      if (!answers.texts[i]->finish().empty()) continue;
      ++left;
      const auto event = answers.generations[i]->next(answers.texts.size() == 1 ? kPatience : kShortPatience);
      if (!event) continue;
      lines += lines_of(answers, i, *event);
      if (answers.texts[i]->finish().empty()) continue;
      --left;
      end = error_of(*answers.texts[i]).has_value();  // of one: the request's
    }
    if (!sink.is_writable()) return false;
    end = end || left == 0;
    if (left == 0 && answers.request.include_usage)
      lines += event_line(usage_chunk(answers.head, answers.usage()));
    if (end) lines += "data: [DONE]\n\n";
    if (!lines.empty() && !sink.write(lines.data(), lines.size())) return false;
    if (end) sink.done();
    return true;
  }

  std::string lines_of(Answers& answers, std::size_t i, const Generation::Event& event) const {
    AnswerText& text = *answers.texts[i];
    AnswerChoice choice{.index = i, .piece = text.take(event)};
    if (const auto error = error_of(text)) return event_line(to_json(*error));
    choice.finish = text.finish();
    const bool first = !answers.begun[i];
    if (!first && choice.piece.text.empty() && choice.piece.tokens.empty() && choice.finish.empty())
      return "";
    answers.begun[i] = true;
    return event_line(answer_chunk(answers.head, choice, first));
  }
};

Server::Server(const Model& model, SequenceEngine& engine, const Tokenizer& tokenizer,
               const ServerOptions& options)
    : impl_(std::make_unique<Impl>(model, engine, tokenizer, options)) {
  impl_->set_up();
}

Server::~Server() = default;

int Server::port() const { return impl_->port; }

void Server::run() {
  if (!impl_->scheduler.stopped()) impl_->http.listen_after_bind();
}

void Server::stop() {
  impl_->scheduler.stop();
  // The library cuts what is still being written when it stops.
  const auto deadline = std::chrono::steady_clock::now() + kFarewell;
  while (impl_->streams > 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  impl_->http.stop();
}

std::vector<std::string> read_api_keys(const std::string& file) {
  std::ifstream lines(file);
  if (!lines) bad_input("--api-key-file: {} cannot be read: {}", file, std::strerror(errno));
  std::vector<std::string> keys;
  std::string line;
  while (std::getline(lines, line)) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line.front() == '#') continue;
    keys.push_back(line);
  }
  if (keys.empty()) bad_input("--api-key-file: {}: found no key, expected one a line", file);
  return keys;
}

}  // namespace swiftprune
