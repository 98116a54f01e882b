// Who may ask: keys, browsers of other origins, and the page that the server brings itself.
#include <bitset>

#include <gmock/gmock.h>

#include "serving/server_fixture.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/serving/chat_page.h"

namespace swiftprune {
namespace {

using test::ServerTest;
using ::testing::HasSubstr;

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

// 43 digits and one '='.
std::string hex_of_base64(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bits, hex;
  for (const char c : text.substr(0, 43)) bits += std::bitset<6>(digits.find(c)).to_string();
  for (std::size_t i = 0; i + 4 <= 256; i += 4)
    hex += "0123456789abcdef"[std::bitset<4>(bits.substr(i, 4)).to_ulong()];
  return hex;
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

}  // namespace
}  // namespace swiftprune
