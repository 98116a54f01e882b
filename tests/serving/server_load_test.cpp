// Many clients: limits, overload, clients that go away, a server that stops, a device that fails.
#include <unistd.h>

#include <atomic>

#include <gmock/gmock.h>

#include "serving/faulty_engine.h"
#include "serving/server_fixture.h"

namespace swiftprune {
namespace {

using test::ServerTest;
using ::testing::HasSubstr;
using Json = nlohmann::json;

TEST_F(ServerTest, LimitsWhatOneClientHas) {
  ServerOptions options;
  options.max_per_client = 1;
  start(options, 2);
  std::atomic<int> served = 0, refused = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < 6; ++c) {
    clients.emplace_back([&] {
      const auto answer = complete({{"prompt", "The sun"}, {"max_tokens", 80}, {"ignore_eos", true}});
      served += answer && answer->status == 200;
      refused += answer && answer->status == 429;
    });
  }
  for (std::thread& thread : clients) thread.join();
  EXPECT_GE(served, 1);
  EXPECT_EQ(served + refused, 6);
  EXPECT_EQ(complete({{"prompt", "The"}, {"max_tokens", 1}})->status, 200);  // their places are free again
}

TEST_F(ServerTest, GaugesAreTrueWhenIdle) {
  start();
  Json body = {{"prompt", "The sun"}, {"max_tokens", 40}, {"temperature", 0}, {"logprobs", 0}};
  const Json tokens = Json::parse(complete(body)->body)["choices"][0]["logprobs"]["tokens"];
  body["stop"] = tokens.at(tokens.size() / 2);
  EXPECT_EQ(Json::parse(complete(body)->body)["choices"][0]["finish_reason"], "stop");
  for (int i = 0; i < 500 && metric("requests_running") > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(metric("requests_running"), 0);
  EXPECT_EQ(metric("requests_finished_total"), 2);
  EXPECT_EQ(metric("requests_cancelled_total"), 0);
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
  start({}, 1);
  // Forty answers, which take turns: long enough not to end by themselves before anybody notices.
  const Json forever = {{"prompt", "The sun"}, {"max_tokens", 80}, {"ignore_eos", true}, {"n", 40},
                        {"stream", true},      {"seed", 1}};
  const std::string body = forever.dump();
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n";
  ::close(test::connection_with(server_->port(), head + body.substr(0, 10)));  // half a request
  for (int i = 0; i < 2; ++i) {
    const double before = metric("generated_tokens_total");
    const int fd = test::connection_with(server_->port(), head + body);
    while (metric("generated_tokens_total") < before + 5)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::close(fd);
    // Noticed before the next one counts tokens, which would be this one's.
    for (int wait = 0; wait < 500 && metric("requests_cancelled_total") <= i; ++wait)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const auto answer = complete({{"prompt", "The sun"}, {"max_tokens", 3}});
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  for (int i = 0; i < 500 && metric("requests_running") + metric("requests_waiting") > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(metric("requests_running"), 0);
  EXPECT_EQ(metric("requests_waiting"), 0);
  EXPECT_GE(metric("requests_cancelled_total"), 2);
  EXPECT_LT(metric("generated_tokens_total"), 2 * 40 * 80);
}

// A stream under way hears why it ends.
TEST_F(ServerTest, StoppingEndsStreamsWithAnEvent) {
  start({}, 1);
  std::string received;
  std::thread reader([&] {
    const auto answer = complete(
        {{"prompt", "The sun"}, {"max_tokens", 80}, {"stream", true}, {"ignore_eos", true}, {"n", 40}});
    if (answer) received = answer->body;
  });
  while (metric("generated_tokens_total") < 5) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server_->stop();
  reader.join();
  EXPECT_THAT(received, HasSubstr("\"error\""));
  EXPECT_THAT(received, HasSubstr("the server is stopping"));
  EXPECT_THAT(received, HasSubstr("data: [DONE]"));
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

// What is under way and what comes later gets the reason; the server itself goes on.
TEST_F(ServerTest, AfterADeviceErrorEveryRequestIsToldSo) {
  test::FaultyEngine engine;
  ServerOptions options;
  options.port = 0;
  options.limits = {.max_prompt_tokens = 60, .max_tokens = 80, .capacity = 140};
  start_with(engine, options);
  EXPECT_EQ(complete({{"prompt", {1}}, {"max_tokens", 3}})->status, 200);
  const auto refuses = [&](const httplib::Result& answer) {
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 503);
    EXPECT_THAT(answer->body, HasSubstr("an illegal memory access"));
  };
  refuses(complete({{"prompt", {test::FaultyEngine::kBroken}}, {"max_tokens", 5}}));
  refuses(complete({{"prompt", {1}}, {"max_tokens", 3}}));
  refuses(client().Get("/health"));
  EXPECT_EQ(client().Get("/v1/models")->status, 200);
}

}  // namespace
}  // namespace swiftprune
