// The page that serve shows at "/": a chat in the browser, one file (chat_page.html) that is put into the library when
// it is built and loads nothing from anywhere.
#pragma once

#include <string>
#include <string_view>

namespace swiftprune {

extern const std::string_view kChatPage;  // as it stands in the file

struct ChatPage {
  std::string html;
  // Content-Security-Policy: the file's own script and style by their hashes, requests to this server and `beside`,
  // nothing else.
  std::string policy;
};

// can_chat: the model has a chat template. beside: the origin of a server whose answers are shown beside this one's,
// "http://127.0.0.1:8081"; or empty.
ChatPage make_chat_page(bool can_chat, const std::string& beside);

// Throws Error{kUsage} when it is no such origin.
void check_origin(std::string_view flag, std::string_view origin);

}  // namespace swiftprune
