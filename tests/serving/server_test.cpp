// The server over real sockets: answers, streams, refusals, overload, clients that go away.
#include "swiftprune/serving/server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include "swiftprune/core/parallel.h"
#include "swiftprune/serving/batch_engine.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

const std::string kModel = SWIFTPRUNE_TEST_DATA "/evaluation/model";

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { set_num_threads(1); }
  void TearDown() override {
    if (server_) server_->stop();
    if (thread_.joinable()) thread_.join();
    set_num_threads(0);
  }

  void start(ServerOptions options = {}, std::int64_t lanes = 8) {
    options.port = 0;
    options.model_name = "tiny";
    options.limits.max_prompt_tokens = 60;
    options.limits.max_tokens = 80;
    options.limits.capacity = 140;
    engine_ = std::make_unique<BatchEngine>(*model_, *backend_, ComputeType::kF32, lanes,
                                            options.limits.capacity, nullptr);
    server_ = std::make_unique<Server>(kModel, *engine_, *tokenizer_, options);
    thread_ = std::thread([this] { server_->run(); });
    for (int i = 0; i < 500 && !client().Get("/health"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  httplib::Client client() {
    httplib::Client result("127.0.0.1", server_->port());
    result.set_read_timeout(60, 0);
    return result;
  }

  httplib::Result complete(const Json& body) {
    return client().Post("/v1/completions", body.dump(), "application/json");
  }

  double metric(const std::string& name) {
    const std::string text = client().Get("/metrics")->body;
    const std::size_t at = text.find("\nswiftprune_" + name + " ");
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + name.size() + 13));
  }

  std::unique_ptr<Model> model_ = Model::open(kModel);
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::open(kModel);
  std::unique_ptr<BatchEngine> engine_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

TEST_F(ServerTest, AnswersWholeAndStreamedAlike) {
  start();
  Json body = {{"prompt", "The sun is"}, {"max_tokens", 12}, {"temperature", 0.8}, {"seed", 4}};
  const auto whole = complete(body);
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->status, 200);
  const Json answer = Json::parse(whole->body);
  const std::string text = answer["choices"][0]["text"];
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "tiny");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], tokenizer_->encode("The sun is").size());
  EXPECT_LE(answer["usage"]["completion_tokens"], 12);

  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const auto streamed = complete(body);
  ASSERT_TRUE(streamed);
  EXPECT_THAT(streamed->get_header_value("Content-Type"), HasSubstr("text/event-stream"));
  std::string joined;
  std::string finish;
  Json usage;
  std::istringstream lines(streamed->body);
  std::string line;
  std::string last;
  while (std::getline(lines, line)) {
    if (!line.starts_with("data: ")) continue;
    last = line.substr(6);
    if (last == "[DONE]") continue;
    const Json chunk = Json::parse(last);
    if (chunk["choices"].empty()) {
      usage = chunk["usage"];
      continue;
    }
    joined += chunk["choices"][0]["text"].get<std::string>();
    if (!chunk["choices"][0]["finish_reason"].is_null()) finish = chunk["choices"][0]["finish_reason"];
  }
  EXPECT_EQ(last, "[DONE]");
  EXPECT_EQ(joined, text);
  EXPECT_EQ(finish, answer["choices"][0]["finish_reason"]);
  EXPECT_EQ(usage, answer["usage"]);
}

TEST_F(ServerTest, StopTextsEndAnAnswer) {
  start();
  const Json body = {{"prompt", "The sun is"}, {"max_tokens", 40}, {"temperature", 0}};
  const std::string text = Json::parse(complete(body)->body)["choices"][0]["text"];
  ASSERT_GT(text.size(), 4u);
  Json stopped = body;
  stopped["stop"] = text.substr(text.size() / 2, 2);
  const Json answer = Json::parse(complete(stopped)->body);
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(answer["choices"][0]["text"], text.substr(0, text.find(text.substr(text.size() / 2, 2))));
}

TEST_F(ServerTest, RefusesWithAReason) {
  ServerOptions options;
  options.max_body_bytes = 10000;
  start(options);
  EXPECT_EQ(complete({{"prompt", 5}})->status, 400);
  const auto broken = client().Post("/v1/completions", "{\"prompt\": ", "application/json");
  EXPECT_EQ(broken->status, 400);
  EXPECT_THAT(Json::parse(broken->body)["error"]["message"].get<std::string>(), HasSubstr("body"));
  const auto huge = client().Post("/v1/completions", std::string(20000, 'x'), "application/json");
  ASSERT_TRUE(huge);
  EXPECT_EQ(huge->status, 413);
  EXPECT_THAT(huge->body, HasSubstr("10000 bytes"));
  const auto nowhere = client().Get("/v2/nothing");
  EXPECT_EQ(nowhere->status, 404);
  EXPECT_THAT(Json::parse(nowhere->body)["error"]["message"].get<std::string>(), HasSubstr("/v2/nothing"));
  const auto chat = client().Post("/v1/chat/completions",
                                  R"({"messages": [{"role": "user", "content": "Hi"}]})", "application/json");
  EXPECT_EQ(chat->status, 400);  // the tiny tokenizer has no marks of a template
  EXPECT_THAT(chat->body, HasSubstr("chat template"));
  EXPECT_EQ(Json::parse(client().Get("/v1/models")->body)["data"][0]["id"], "tiny");
}

TEST_F(ServerTest, OverloadIsRefusedAndNoAnswerIsMixedUp) {
  ServerOptions options;
  options.scheduler.max_waiting = 4;
  start(options, 3);
  std::vector<std::string> expected(6);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Json body = {{"prompt", {10 + i, 20, 30}}, {"max_tokens", 20}, {"temperature", 1}, {"seed", i}};
    expected[i] = Json::parse(complete(body)->body)["choices"][0]["text"];
  }
  std::atomic<int> served = 0, refused = 0, wrong = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < 24; ++c) {
    clients.emplace_back([&, c] {
      for (int r = 0; r < 8; ++r) {
        const auto i = static_cast<std::size_t>(c + r) % expected.size();
        const Json body = {{"prompt", {10 + i, 20, 30}}, {"max_tokens", 20}, {"temperature", 1}, {"seed", i}};
        const auto answer = complete(body);
        if (!answer) {
          ++wrong;
        } else if (answer->status == 429) {
          ++refused;
          wrong += answer->get_header_value("Retry-After").empty();
        } else {
          ++served;
          wrong += answer->status != 200 || Json::parse(answer->body)["choices"][0]["text"] != expected[i];
        }
      }
    });
  }
  for (std::thread& thread : clients) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(served + refused, 24 * 8);
  EXPECT_GT(served, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(metric("requests_finished_total"), served + 6);
  EXPECT_EQ(metric("requests_refused_total"), refused);
}

TEST_F(ServerTest, ClientsThatGoAwayFreeTheirLane) {
  ServerOptions options;
  start(options, 1);
  const std::string body = R"({"prompt": "The sun", "max_tokens": 80, "stream": true, "seed": 1})";
  for (int i = 0; i < 3; ++i) {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(server_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    // i = 0: only half a request; else a whole one, closed while the answer comes.
    const std::string head =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: " +
        std::to_string(body.size()) + "\r\n\r\n";
    const std::string request = i == 0 ? head + body.substr(0, 10) : head + body;
    ASSERT_EQ(::send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
    if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ::close(fd);
  }
  const auto answer = complete({{"prompt", "The sun"}, {"max_tokens", 3}});
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  for (int i = 0; i < 200 && metric("requests_running") > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(metric("requests_waiting"), 0);
}

TEST_F(ServerTest, StoppingAnswersWhatIsUnderWay) {
  ServerOptions options;
  start(options, 1);
  std::vector<std::thread> clients;
  std::atomic<int> answered = 0;
  for (int c = 0; c < 6; ++c) {
    clients.emplace_back([&] {
      const auto answer = complete({{"prompt", "The sun"}, {"max_tokens", 80}});
      answered += answer && (answer->status == 200 || answer->status == 503);
    });
  }
  while (metric("requests_accepted_total") < 6) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server_->stop();
  for (std::thread& thread : clients) thread.join();
  EXPECT_EQ(answered, 6);
}

TEST_F(ServerTest, TwoCannotHaveOnePort) {
  start();
  ServerOptions options;
  options.port = server_->port();
  EXPECT_THROW(Server(kModel, *engine_, *tokenizer_, options), std::exception);
}

}  // namespace
}  // namespace swiftprune
