// What a connection carries: requests one behind another, bodies that are not read, headers that readers differ in.
#include <sys/socket.h>
#include <unistd.h>

#include <gmock/gmock.h>

#include "serving/server_fixture.h"

namespace swiftprune {
namespace {

using test::ServerTest;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;
using Json = nlohmann::json;

// What comes back on a connection until the server closes it.
std::string raw_answers(int port, const std::string& request, bool sends_no_more = false) {
  const int fd = test::connection_with(port, request);
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

// The status lines of what came back, in order.
std::vector<std::string> statuses(const std::string& answers) {
  std::vector<std::string> found;
  for (std::size_t at = 0; (at = answers.find("HTTP/1.1 ", at)) != std::string::npos; ++at)
    found.push_back(answers.substr(at + 9, 3));
  return found;
}

TEST_F(ServerTest, KeepsConnectionsApartFromUnreadBodies) {
  start();
  const std::string inner = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string all = raw_answers(server_->port(), "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                                                           std::to_string(inner.size()) + "\r\n\r\n" + inner);
  EXPECT_THAT(all, HasSubstr("HTTP/1.1 400"));
  EXPECT_EQ(all.find("HTTP/1.1", 10), std::string::npos);  // one answer, not two
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

}  // namespace
}  // namespace swiftprune
