// What stands between the HTTP library and the endpoints: one table of paths and methods, keys, CORS, bodies
// read within their limit, and errors as OpenAI's object. A private header: it shows the library's types.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <httplib.h>
#include <nlohmann/json.hpp>

#include "swiftprune/serving/http_server.h"
#include "swiftprune/serving/request_fields.h"

namespace swiftprune {

void answer(httplib::Response& response, int status, const nlohmann::ordered_json& body);
void answer(httplib::Response& response, const ApiError& error);
// As answers have it: bytes of a text that are not UTF-8 become U+FFFD.
std::string dumped(const nlohmann::ordered_json& body);

// Requests under way, by the client's address.
class ClientLimits {
 public:
  explicit ClientLimits(std::int64_t most) : most_(most) {}  // 0: any number
  // Holds a place for as long as it lives; null when the client has all of its own.
  std::shared_ptr<void> enter(const std::string& client);

 private:
  const std::int64_t most_;
  std::mutex mutex_;
  std::map<std::string, std::int64_t> inside_;
};

struct FrontOptions {
  std::size_t max_body_bytes = 1 << 20;  // as sent, and after decompression
  std::string cors_origin;               // who may call from a browser; empty: nobody, "*": everybody
  std::vector<std::string> api_keys;     // empty: no key is asked for
};

class HttpFront {
 public:
  using Handler = std::function<void(const httplib::Request&, const std::string& body, httplib::Response&)>;
  struct Route {
    std::string method;  // "GET" (HEAD too) or "POST"
    std::string path;    // whole, or the beginning when it ends in '/' (not "/" itself)
    bool open = false;   // without a key
    Handler handler;
  };

  HttpFront(const FrontOptions& options, std::vector<Route> routes)
      : options_(options), routes_(std::move(routes)) {}
  // Puts itself in front of every path.
  void attach(HttpServer& http);

 private:
  void dispatch(const httplib::Request& request, httplib::Response& response,
                const httplib::ContentReader* reader);
  void route(const httplib::Request& request, httplib::Response& response,
             const httplib::ContentReader* reader);
  const Route& find(const httplib::Request& request, httplib::Response& response) const;
  std::string methods_of(const std::string& path) const;
  bool has_key(const httplib::Request& request) const;
  void preflight(const httplib::Request& request, httplib::Response& response) const;
  void allow_origin(const httplib::Request& request, httplib::Response& response) const;

  const FrontOptions options_;
  const std::vector<Route> routes_;
};

}  // namespace swiftprune
