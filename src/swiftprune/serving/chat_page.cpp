#include "swiftprune/serving/chat_page.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/sha256.h"

namespace swiftprune {
namespace {

// RFC 4648, of a digest as hexadecimal digits.
std::string base64_of_hex(std::string_view hex) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string result;
  unsigned pending = 0, bits = 0;
  for (const char c : hex) {
    pending = pending << 4 | static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10);
    bits += 4;
    if (bits < 6) continue;
    bits -= 6;
    result += kDigits[pending >> bits & 63U];
  }
  if (bits > 0) result += kDigits[pending << (6 - bits) & 63U];
  result.append((4 - result.size() % 4) % 4, '=');
  return result;
}

// As a browser hashes it: all between the element's tags.
std::string hash_source(std::string_view element) {
  const std::string begin = fmt::format("<{}>", element), end = fmt::format("</{}>", element);
  const std::size_t first = kChatPage.find(begin), last = kChatPage.find(end);
  expect(first < last && last != std::string_view::npos, "chat_page.html: one such element");
  return fmt::format(
      "'sha256-{}'",
      base64_of_hex(sha256_hex(kChatPage.substr(first + begin.size(), last - first - begin.size()))));
}

void put(std::string& html, std::string_view place, std::string_view value) {
  const std::size_t at = html.find(place);
  expect(at != std::string::npos, "chat_page.html: a place to fill");
  html.replace(at, place.size(), value);
}

}  // namespace

ChatPage make_chat_page(bool can_chat, const std::string& beside) {
  ChatPage page;
  page.html = kChatPage;
  put(page.html, "{{chat}}", can_chat ? "true" : "false");
  put(page.html, "{{beside}}", beside);
  page.policy = fmt::format(
      "default-src 'none'; script-src {}; style-src {}; connect-src 'self'{}{}; img-src data:; base-uri "
      "'none'; "
      "form-action 'none'; frame-ancestors 'none'",
      hash_source("script"), hash_source("style"), beside.empty() ? "" : " ", beside);
  return page;
}

void check_origin(std::string_view flag, std::string_view origin) {
  std::string_view rest = origin;
  const std::size_t scheme = rest.starts_with("http://") ? 7 : rest.starts_with("https://") ? 8 : 0;
  rest.remove_prefix(scheme);
  const bool valid =
      scheme > 0 && !rest.empty() && std::ranges::all_of(rest, [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '.' || c == '-' || c == ':' || c == '[' || c == ']';
      });
  if (!valid)
    bad_usage("{}: found '{}', expected the address of a server without a path, as http://127.0.0.1:8081",
              flag, origin);
}

}  // namespace swiftprune
