// The server over real sockets: answers, streams, refusals, overload, clients that go away, keys, browsers.
#include "swiftprune/serving/server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bitset>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/serving/batch_engine.h"
#include "swiftprune/serving/chat_page.h"

namespace swiftprune {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;
using Json = nlohmann::json;

// 43 digits and one '='.
std::string hex_of_base64(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bits, hex;
  for (const char c : text.substr(0, 43)) bits += std::bitset<6>(digits.find(c)).to_string();
  for (std::size_t i = 0; i + 4 <= 256; i += 4)
    hex += "0123456789abcdef"[std::bitset<4>(bits.substr(i, 4)).to_ulong()];
  return hex;
}

const std::string kModel = SWIFTPRUNE_TEST_DATA "/evaluation/model";

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { set_num_threads(1); }
  void TearDown() override {
    if (server_) server_->stop();
    if (thread_.joinable()) thread_.join();
    set_num_threads(0);
  }

  void start(ServerOptions options = {}, std::int64_t lanes = 8, std::uint64_t cache_bytes = 0) {
    options.port = 0;
    options.model_name = "tiny";
    options.limits.max_prompt_tokens = 60;
    options.limits.max_tokens = 80;
    options.limits.capacity = 140;
    engine_ = std::make_unique<BatchEngine>(*model_, *backend_, ComputeType::kF32, lanes,
                                            options.limits.capacity, nullptr, cache_bytes);
    if (engine_->capacity() < options.limits.capacity) {
      options.limits.capacity = engine_->capacity();
      options.limits.memory_option = "--cache-memory";
    }
    server_ = std::make_unique<Server>(*model_, *engine_, *tokenizer_, options);
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
  for (const char* count : {"prompt_tokens", "completion_tokens", "total_tokens"})
    EXPECT_EQ(usage[count], answer["usage"][count]) << count;
  // The same prompt again: all but its last token was read already.
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"].get<int>() - 1);
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
  const Json model = Json::parse(client().Get("/v1/models")->body)["data"][0];
  EXPECT_EQ(model["id"], "tiny");
  EXPECT_GT(model["created"], 1600000000);
  EXPECT_EQ(Json::parse(client().Get("/v1/models/tiny")->body), model);
  EXPECT_EQ(client().Get("/v1/models/other")->status, 404);
}

TEST_F(ServerTest, HasTheStatusOfWhatIsWrong) {
  ServerOptions options;
  options.max_body_bytes = 20000;
  start(options);
  const auto wrong = client().Get("/v1/completions");
  EXPECT_EQ(wrong->status, 405);
  EXPECT_THAT(wrong->get_header_value("Allow"), HasSubstr("POST"));
  EXPECT_EQ(client().Put("/v1/models", "{}", "application/json")->status, 405);
  EXPECT_EQ(client().Delete("/nothing")->status, 404);
  EXPECT_EQ(client().Post("/v1/completions", "{}", "text/html")->status, 415);
  const std::string body =
      Json{{"prompt", "The"}, {"max_tokens", 1}, {"user", std::string(9000, 'x')}}.dump();
  // As `curl -d` sends it; a browser's page may send that to anybody unasked.
  EXPECT_EQ(client().Post("/v1/completions", body, "application/x-www-form-urlencoded")->status, 200);
  EXPECT_EQ(
      client()
          .Post("/v1/completions", {{"Origin", "http://evil"}}, body, "application/x-www-form-urlencoded")
          ->status,
      415);
  EXPECT_EQ(
      client().Post("/v1/completions", {{"Content-Encoding", "zstd"}}, body, "application/json")->status,
      415);
  // A small body that grows.
  auto packer = client();
  packer.set_compress(true);
  EXPECT_EQ(packer.Post("/v1/completions", body, "application/json")->status, 200);
  const std::string bomb = Json{{"prompt", std::string(3000000, 'x')}}.dump();
  const auto exploded = packer.Post("/v1/completions", bomb, "application/json");
  ASSERT_TRUE(exploded);
  EXPECT_EQ(exploded->status, 413);
  // In pieces, without a length.
  auto chunks = client();
  const auto piecewise = chunks.Post(
      "/v1/completions",
      [&, sent = std::size_t{0}](std::size_t, httplib::DataSink& sink) mutable {
        if (sent == 30)
          sink.done();
        else
          sink.write(std::string(1000, 'x').data(), 1000);
        ++sent;
        return true;
      },
      "application/json");
  ASSERT_TRUE(piecewise);
  EXPECT_EQ(piecewise->status, 413);
  EXPECT_EQ(complete({{"prompt", "The"}, {"max_tokens", 1}})->status, 200);
}

// What comes back on a connection until the server closes it.
std::string raw_answers(int port, const std::string& request, bool sends_no_more = false) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(::send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  if (sends_no_more) {
    EXPECT_EQ(::shutdown(fd, SHUT_WR), 0);
  }
  std::string all;
  char buffer[4096];
  ssize_t n = 0;
  while ((n = ::recv(fd, buffer, sizeof(buffer), 0)) > 0) all.append(buffer, static_cast<std::size_t>(n));
  ::close(fd);
  return all;
}

TEST_F(ServerTest, KeepsConnectionsApartFromUnreadBodies) {
  start();
  const std::string inner = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string all = raw_answers(server_->port(), "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                                                           std::to_string(inner.size()) + "\r\n\r\n" + inner);
  EXPECT_THAT(all, HasSubstr("HTTP/1.1 400"));
  EXPECT_EQ(all.find("HTTP/1.1", 10), std::string::npos);  // one answer, not two
}

// The status lines of what came back, in order.
std::vector<std::string> statuses(const std::string& answers) {
  std::vector<std::string> found;
  for (std::size_t at = 0; (at = answers.find("HTTP/1.1 ", at)) != std::string::npos; ++at)
    found.push_back(answers.substr(at + 9, 3));
  return found;
}

TEST_F(ServerTest, AnswersRequestsThatWereSentTogether) {
  start();
  const std::string body = Json{{"prompt", "The sun is"}, {"max_tokens", 3}, {"temperature", 0}}.dump();
  const std::string post =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  const std::string get = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string last = "GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  const std::string all = raw_answers(server_->port(), post + get + post + last + get);
  EXPECT_THAT(statuses(all), ElementsAre("200", "200", "200", "404"));
  const std::string text = Json::parse(complete(Json::parse(body))->body)["choices"][0]["text"];
  const std::string said = Json{{"text", text}}.dump().substr(1, Json{{"text", text}}.dump().size() - 2);
  EXPECT_NE(all.find(said), all.rfind(said)) << all;
  // More of them than a read takes at once.
  std::string many;
  for (int i = 0; i < 300; ++i) many += get;
  EXPECT_THAT(statuses(raw_answers(server_->port(), many + last)), SizeIs(301));
}

// What was not read of a request is never another one.
TEST_F(ServerTest, ClosesBehindARequestThatItDidNotRead) {
  start();
  const std::string inner = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string length = "Content-Length: " + std::to_string(inner.size()) + "\r\n\r\n" + inner;
  for (const std::string& request :
       {"HEAD /health HTTP/1.1\r\nHost: x\r\n" + length, "NEVER /health HTTP/1.1\r\nHost: x\r\n" + length,
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nRange: bytes=x\r\n" + length,
        "GET /" + std::string(9000, 'x') + " HTTP/1.1\r\nHost: x\r\n" + length,
        "GET /health\r\nHost: x\r\n" + length}) {
    EXPECT_THAT(statuses(raw_answers(server_->port(), request)), ElementsAre(StartsWith("4")))
        << request.substr(0, 80);
  }
}

// As `printf ... | nc -N` does.
TEST_F(ServerTest, AnswersClientsThatHaveSentAll) {
  start();
  const std::string body = R"({"prompt": "The sun", "max_tokens": 3})";
  for (const std::string& request : {std::string("GET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
                                     "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                                         std::to_string(body.size()) + "\r\n\r\n" + body}) {
    EXPECT_THAT(statuses(raw_answers(server_->port(), request, true)), ElementsAre("200")) << request;
  }
}

TEST_F(ServerTest, AnswersTheWholeThatIsAskedFor) {
  start();
  const std::string all = raw_answers(server_->port(),
                                      "GET /health HTTP/1.1\r\nHost: x\r\nRange: bytes=0-2\r\n\r\n"
                                      "GET http://x/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(statuses(all), ElementsAre("200", "200"));
  const std::string ok = R"({"status":"ok"})";
  EXPECT_NE(all.find(ok), all.rfind(ok)) << all;
  EXPECT_EQ(all.find("Content-Range"), std::string::npos);
}

TEST_F(ServerTest, RefusesHeadersThatReadersDifferIn) {
  start();
  const std::string request = "POST /v1/completions HTTP/1.1\r\nHost: x\r\n";
  const std::string chunks = "13\r\n{\"prompt\": \"The sun\"}\r\n0\r\n\r\n";
  EXPECT_THAT(raw_answers(server_->port(), request + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks),
              AllOf(StartsWith("HTTP/1.1 501"), HasSubstr("found gzip, chunked, expected chunked")));
  for (const char* header : {"Content-Length : 2\r\n", "X-One: 1\r\n Content-Length: 2\r\n"}) {
    EXPECT_THAT(raw_answers(server_->port(), request + header + "\r\n{}"), StartsWith("HTTP/1.1 400"))
        << header;
  }
}

TEST_F(ServerTest, TakesOneLengthAlone) {
  start();
  for (const char* lengths : {"Content-Length: 2\r\nContent-Length: 30\r\n", "Content-Length: -5\r\n",
                              "Content-Length: 2, 30\r\n", "Content-Length: 99999999999999999999\r\n"}) {
    const std::string all = raw_answers(
        server_->port(), std::string("POST /v1/completions HTTP/1.1\r\nHost: x\r\n") + lengths + "\r\n{}");
    EXPECT_THAT(all, HasSubstr("HTTP/1.1 400")) << lengths;
    EXPECT_THAT(all, HasSubstr("Content-Length: expected one number")) << lengths;
  }
}

TEST_F(ServerTest, AsksForAKey) {
  ServerOptions options;
  options.api_keys = {"first", "second"};
  start(options);
  EXPECT_EQ(client().Get("/health")->status, 200);
  const auto without = client().Get("/v1/models");
  EXPECT_EQ(without->status, 401);
  EXPECT_FALSE(without->get_header_value("WWW-Authenticate").empty());
  for (const char* key : {"Bearer firs", "Bearer first2", "Bearer ", "first", "Basic first"})
    EXPECT_EQ(client().Get("/v1/models", {{"Authorization", key}})->status, 401) << key;
  for (const char* key : {"Bearer first", "Bearer second", "bearer first"})  // RFC 9110: in either case
    EXPECT_EQ(client().Get("/v1/models", {{"Authorization", key}})->status, 200) << key;
  EXPECT_EQ(complete({{"prompt", "The"}})->status, 401);
}

TEST(ReadApiKeys, TakesOneALine) {
  const test::TempDir folder;
  const std::string file = folder.path() / "keys";
  test::write_text(file, "# mine\none\r\n\ntwo \n");
  EXPECT_EQ(read_api_keys(file), (std::vector<std::string>{"one", "two"}));
  test::write_text(file, "# nothing\n");
  test::expect_error(
      ErrorKind::kBadInput, [&] { read_api_keys(file); }, "no key");
  test::expect_error(
      ErrorKind::kBadInput, [&] { read_api_keys(file + "2"); }, "--api-key-file");
}

TEST_F(ServerTest, AnswersBrowsersOfOneOrigin) {
  ServerOptions options;
  options.cors_origin = "http://page";
  options.api_keys = {"k"};
  start(options);
  const auto asked = client().Options("/v1/completions", {{"Origin", "http://page"}});
  ASSERT_TRUE(asked);
  EXPECT_EQ(asked->status, 204);
  EXPECT_EQ(asked->get_header_value("Access-Control-Allow-Origin"), "http://page");
  EXPECT_THAT(asked->get_header_value("Access-Control-Allow-Methods"), HasSubstr("POST"));
  EXPECT_THAT(asked->get_header_value("Access-Control-Allow-Headers"), HasSubstr("Authorization"));
  EXPECT_FALSE(client()
                   .Options("/v1/completions", {{"Origin", "http://evil"}})
                   ->has_header("Access-Control-Allow-Origin"));
  EXPECT_EQ(
      client().Get("/health", {{"Origin", "http://page"}})->get_header_value("Access-Control-Allow-Origin"),
      "http://page");
}

TEST_F(ServerTest, AnswersNoBrowserByItself) {
  start();
  const auto asked = client().Options("/v1/completions", {{"Origin", "http://page"}});
  EXPECT_EQ(asked->status, 204);
  EXPECT_FALSE(asked->has_header("Access-Control-Allow-Origin"));
  EXPECT_EQ(client().Options("/nothing")->status, 404);
}

// What the Content-Security-Policy allows is what the page holds: a browser would refuse to run another script.
TEST_F(ServerTest, ShowsAChatPage) {
  ServerOptions options;
  options.api_keys = {"k"};
  options.beside = "http://127.0.0.1:9";
  start(options);
  const auto page = client().Get("/");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200) << "without a key, for which the page asks";
  EXPECT_EQ(page->get_header_value("Content-Type"), "text/html; charset=utf-8");
  EXPECT_EQ(page->get_header_value("X-Content-Type-Options"), "nosniff");
  const std::string policy = page->get_header_value("Content-Security-Policy");
  EXPECT_THAT(policy, HasSubstr("default-src 'none'; "));
  EXPECT_THAT(policy, HasSubstr("connect-src 'self' http://127.0.0.1:9; "));
  for (const std::string element : {"script", "style"}) {
    const std::string& html = page->body;
    const std::size_t first = html.find("<" + element + ">") + element.size() + 2;
    const std::size_t last = html.find("</" + element + ">");
    ASSERT_LT(first, last);
    EXPECT_EQ(html.find("<" + element, first), std::string::npos) << "one of each is allowed";
    const std::string source = element + "-src 'sha256-";
    const std::size_t at = policy.find(source);
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(hex_of_base64(policy.substr(at + source.size(), 44)),
              sha256_hex(html.substr(first, last - first)));
  }
  EXPECT_THAT(page->body, HasSubstr("<body data-chat=\"false\" data-beside=\"http://127.0.0.1:9\">"));
  // Nothing from the network, nothing that the policy would not run.
  for (const char* never : {"https:", "src=\"", "@import", "url(", " style=\"", " onclick=\"", "innerHTML"})
    EXPECT_EQ(page->body.find(never), std::string::npos) << never;
  EXPECT_EQ(page->body.find("@media (prefers-color-scheme"), std::string::npos) << "dark would be printed";
  EXPECT_EQ(client().Get("/v1/models")->status, 401);
  EXPECT_EQ(client().Get("/other")->status, 404) << "the page is one path";
  const auto posted = client().Post("/", "{}", "application/json");
  EXPECT_EQ(posted->status, 405);
  EXPECT_EQ(posted->get_header_value("Allow"), "GET, HEAD, OPTIONS");
}

TEST_F(ServerTest, ShowsNoPageWhenItIsNotWanted) {
  ServerOptions options;
  options.page = false;
  start(options);
  EXPECT_EQ(client().Get("/")->status, 404);
}

TEST(ChatPage, TakesAnOriginBesideIt) {
  for (const char* right : {"http://127.0.0.1:8081", "https://models.local", "http://[::1]:80"})
    EXPECT_NO_THROW(check_origin("--beside", right)) << right;
  for (const char* wrong : {"127.0.0.1:8081", "http://", "http://a/b", "http://a; script-src *", "http://a\"",
                            "ftp://a", "http://a b"}) {
    test::expect_error(
        ErrorKind::kUsage, [&] { check_origin("--beside", wrong); }, "--beside");
  }
  EXPECT_THAT(make_chat_page(true, "").policy, HasSubstr("connect-src 'self'; "));
}

// Memory for one page of positions: answers take turns, and one that needs two is refused.
TEST_F(ServerTest, TellsOfTheMemoryOfItsCache) {
  const auto page = static_cast<std::uint64_t>(model_->config().cache_size() * LanePages::kPositions * 4);
  start({}, 8, page);
  EXPECT_EQ(metric("cache_limit_bytes"), static_cast<double>(page));
  const Json fits = {{"prompt", "The sun is"}, {"max_tokens", 40}, {"n", 3}, {"temperature", 0}};
  const Json answer = Json::parse(complete(fits)->body);
  ASSERT_EQ(answer["choices"].size(), 3u);
  EXPECT_EQ(answer["choices"][2]["text"], answer["choices"][0]["text"]);
  EXPECT_EQ(metric("cache_bytes"), static_cast<double>(page));  // what the last one has read
  const auto refused = complete({{"prompt", "The sun is"}, {"max_tokens", 64}});
  EXPECT_EQ(refused->status, 400);
  EXPECT_THAT(refused->body, ::testing::HasSubstr("expected at most 64 together"));
  EXPECT_THAT(refused->body, ::testing::HasSubstr("--cache-memory"));
}

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

TEST_F(ServerTest, GivesSeveralAnswersToSeveralPrompts) {
  start();
  const Json body = {{"prompt", {"The sun is", "He said"}}, {"n", 2}, {"max_tokens", 6}, {"seed", 5}};
  const Json answer = Json::parse(complete(body)->body);
  ASSERT_EQ(answer["choices"].size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(answer["choices"][i]["index"], i);
  EXPECT_NE(answer["choices"][0]["text"], answer["choices"][1]["text"]);
  EXPECT_EQ(answer["usage"]["prompt_tokens"],
            tokenizer_->encode("The sun is").size() + tokenizer_->encode("He said").size());
  // Each is what it is alone, and the same in a stream.
  const Json alone = Json::parse(complete({{"prompt", "He said"}, {"max_tokens", 6}, {"seed", 5}})->body);
  EXPECT_EQ(alone["choices"][0]["text"], answer["choices"][2]["text"]);
  EXPECT_EQ(alone["seed"], 5);
  Json streamed = body;
  streamed["stream"] = true;
  std::vector<std::string> texts(4);
  std::istringstream lines(complete(streamed)->body);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("data: {")) continue;
    const Json choice = Json::parse(line.substr(6))["choices"][0];
    texts[choice["index"].get<std::size_t>()] += choice["text"].get<std::string>();
  }
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(texts[i], answer["choices"][i]["text"]);
}

// What lm-eval's local-completions reads: the log-probabilities of a prompt's tokens.
TEST_F(ServerTest, EchoesAPromptWithLogprobs) {
  start();
  const std::vector<std::int32_t> ids = tokenizer_->encode("The sun is hot", false);
  const Json whole = Json::parse(
      complete({{"prompt", {ids}}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 1}, {"temperature", 0}})
          ->body);
  const Json choice = whole["choices"][0];
  EXPECT_EQ(choice["text"], "The sun is hot");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 0);
  const Json found = choice["logprobs"];
  ASSERT_EQ(found["token_logprobs"].size(), ids.size());
  EXPECT_TRUE(found["token_logprobs"][0].is_null());
  // The engine's own numbers, one token at a time.
  BatchEngine alone(*model_, *backend_, ComputeType::kF32, 1, 140, nullptr);
  alone.start({.positions = 140});
  for (std::size_t t = 1; t < ids.size(); ++t) {
    const ConstMatrixView logits = alone.prefill(0, std::span(ids).subspan(t - 1, 1));
    const TokenChances expected = token_chances(logits.row_span(0), ids[t], 1);
    EXPECT_NEAR(found["token_logprobs"][t].get<double>(), expected.logprob, 1e-4);
    double best = -1e9;
    for (const auto& [text, logprob] : found["top_logprobs"][t].items())
      best = std::max(best, logprob.get<double>());
    EXPECT_NEAR(best, expected.top[0].logprob, 1e-4);
  }
  const Json more = Json::parse(
      complete({{"prompt", {ids}}, {"max_tokens", 1}, {"echo", true}, {"logprobs", 1}, {"temperature", 0}})
          ->body);
  EXPECT_EQ(more["choices"][0]["logprobs"]["tokens"].size(), ids.size() + 1);
}

TEST_F(ServerTest, KeepsTheAnswerInsideASchema) {
  start();
  const Json schema = {{"type", "object"},
                       {"properties", {{"ok", {{"type", "boolean"}}}, {"n", {{"enum", {1, 2}}}}}},
                       {"required", {"ok", "n"}},
                       {"additionalProperties", false}};
  for (int seed = 0; seed < 5; ++seed) {
    const Json body = {{"prompt", "The sun"},
                       {"max_tokens", 80},
                       {"seed", seed},
                       {"response_format", {{"type", "json_schema"}, {"json_schema", {{"schema", schema}}}}}};
    const Json choice = Json::parse(complete(body)->body)["choices"][0];
    if (choice["finish_reason"] != "stop") continue;  // spaces took its tokens
    const Json document = Json::parse(choice["text"].get<std::string>());
    EXPECT_TRUE(document["ok"].is_boolean());
    EXPECT_TRUE(document["n"] == 1 || document["n"] == 2);
  }
}

TEST_F(ServerTest, SamplingFieldsChangeTheAnswer) {
  start();
  const Json body = {{"prompt", "The sun is"}, {"max_tokens", 8}, {"temperature", 0}};
  const auto text_of = [&](const Json& more) {
    Json changed = body;
    changed.update(more);
    return Json::parse(complete(changed)->body)["choices"][0]["text"].get<std::string>();
  };
  const std::string plain = text_of(Json::object());
  const Json scored = Json::parse(
      complete({{"prompt", "The sun is"}, {"max_tokens", 8}, {"temperature", 0}, {"logprobs", 0}})->body);
  EXPECT_EQ(scored["choices"][0]["text"], plain);
  EXPECT_EQ(text_of({{"temperature", 2}, {"top_k", 1}}), plain);
  EXPECT_EQ(text_of({{"temperature", 2}, {"min_p", 1}}), plain);
  EXPECT_NE(text_of({{"repetition_penalty", 50}, {"frequency_penalty", 2}}), plain);
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
  EXPECT_THROW(Server(*model_, *engine_, *tokenizer_, options), std::exception);
}

}  // namespace
}  // namespace swiftprune
