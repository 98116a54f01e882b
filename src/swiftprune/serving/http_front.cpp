#include "swiftprune/serving/http_front.h"

#include <algorithm>
#include <cctype>
#include <exception>
#include <new>
#include <optional>

#include <fmt/format.h>

namespace swiftprune {
namespace {

// A body over its limit is still read so far, so that the client gets to read the answer.
constexpr std::size_t kMaxDrained = 16 << 20;

// For requests that were not read to their end: what is left would be taken for the next request (HttpServer closes).
void close_after(httplib::Response& response) { response.set_header("Connection", "close"); }

// Two lengths, or one that is no number, end a request in places that two readers see differently.
bool has_one_length(const httplib::Request& request) {
  const std::string length = request.get_header_value("Content-Length");
  return request.get_header_value_count("Content-Length") == 1 && !length.empty() && length.size() <= 18 &&
         std::all_of(length.begin(), length.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

struct Body {
  std::string text;
  bool too_large = false;
  bool whole = false;  // read to its end
};

Body read_body(const httplib::Request& request, const httplib::Response& response,
               const httplib::ContentReader& reader, std::size_t most) {
  Body body;
  std::size_t total = 0;
  const auto take = [&](const char* data, std::size_t size) {
    total += size;
    body.too_large = body.too_large || total > most;
    if (!body.too_large) body.text.append(data, size);
    return total <= most + kMaxDrained;
  };
  if (request.is_multipart_form_data()) {
    body.whole = reader([](const httplib::MultipartFormData&) { return true; }, take);
  } else {
    body.whole = reader(take);
  }
  // The library has counted the bytes that were announced.
  if (!body.whole && response.status == 413) body.too_large = true;
  return body;
}

// Names of types, encodings and schemes count in either case.
std::string lowered(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// What another reader would understand otherwise than the library does: a header's name with white space (RFC 9112, 5.1), a
// transfer coding that it does not know.
std::optional<ApiError> problem_of_headers(const httplib::Request& request) {
  for (const auto& [name, value] : request.headers) {
    if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c <= ' '; }))
      return ApiError{400, "invalid_request_error", "a header's name with white space"};
  }
  const std::string coding = request.get_header_value("Transfer-Encoding");
  if (!request.has_header("Transfer-Encoding") || lowered(coding) == "chunked") return std::nullopt;
  return ApiError{501, "invalid_request_error",
                  fmt::format("Transfer-Encoding: found {}, expected chunked", coding.substr(0, 64))};
}

void check_type(const httplib::Request& request) {
  std::string type = request.get_header_value("Content-Type");
  type = lowered(type.substr(0, type.find(';')));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  // What `curl -d` says. A browser's page may send this type anywhere without asking first.
  const bool form = type == "application/x-www-form-urlencoded" && !request.has_header("Origin");
  if (!type.empty() && type != "application/json" && !form) {
    throw ApiError{415, "invalid_request_error",
                   fmt::format("Content-Type: found {}, expected application/json", type.substr(0, 64))};
  }
  const std::string encoding = request.get_header_value("Content-Encoding");
  for (const char* known : {"", "identity", "gzip", "deflate", "br"}) {
    if (encoding == known) return;
  }
  throw ApiError{
      415, "invalid_request_error",
      fmt::format("Content-Encoding: found {}, expected gzip, deflate or br", encoding.substr(0, 64))};
}

// Takes as long for every guess of one length.
bool same_key(std::string_view given, std::string_view key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i)
    difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(key[i % key.size()]);
  return difference == 0;
}

bool covers(const HttpFront::Route& route, const std::string& path) {
  return route.path.ends_with('/') && route.path != "/"
             ? path.size() > route.path.size() && path.starts_with(route.path)
             : path == route.path;
}

ApiError error_of(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const ApiError& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return {503, "server_error", "out of memory; try again later"};
  } catch (const std::exception& error) {
    return {500, "server_error", error.what()};
  } catch (...) {
    return {500, "server_error", "an unknown error"};
  }
}

}  // namespace

std::string dumped(const nlohmann::ordered_json& body) {
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void answer(httplib::Response& response, int status, const nlohmann::ordered_json& body) {
  response.status = status;
  response.set_content(dumped(body), "application/json");
}

void answer(httplib::Response& response, const ApiError& error) {
  if (error.status == 429 || error.status == 503) response.set_header("Retry-After", "1");
  if (error.status == 401) response.set_header("WWW-Authenticate", "Bearer");
  answer(response, error.status, to_json(error));
}

std::shared_ptr<void> ClientLimits::enter(const std::string& client) {
  const std::lock_guard lock(mutex_);
  std::int64_t& inside = inside_[client];
  if (most_ > 0 && inside >= most_) return nullptr;
  ++inside;
  return {this, [client](void* self) {
            auto& limits = *static_cast<ClientLimits*>(self);
            const std::lock_guard again(limits.mutex_);
            const auto found = limits.inside_.find(client);
            if (--found->second == 0) limits.inside_.erase(found);
          }};
}

void HttpFront::attach(HttpServer& http) {
  const auto without_body = [this](const httplib::Request& request, httplib::Response& response) {
    dispatch(request, response, nullptr);
  };
  const auto with_body = [this](const httplib::Request& request, httplib::Response& response,
                                const httplib::ContentReader& reader) {
    dispatch(request, response, &reader);
  };
  http.Get(".*", without_body).Options(".*", without_body);
  http.Post(".*", with_body).Put(".*", with_body).Patch(".*", with_body).Delete(".*", with_body);
  http.set_payload_max_length(options_.max_body_bytes);
  http.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
    using Done = httplib::Server::HandlerResponse;
    const bool chunked = request.has_header("Transfer-Encoding");
    const bool counted = request.has_header("Content-Length");
    const bool bodiless = request.method == "GET" || request.method == "HEAD" || request.method == "OPTIONS";
    // What is not read, or could be read in two ways, would be taken for another request.
    const bool unread =
        bodiless && (chunked || (counted && request.get_header_value("Content-Length") != "0"));
    const bool unclear = counted && !has_one_length(request);
    const auto problem = problem_of_headers(request);
    if (!problem && !unread && !unclear && !(chunked && counted)) return Done::Unhandled;
    answer(response, problem ? *problem
                             : ApiError{400, "invalid_request_error",
                                        unclear ? "Content-Length: expected one number"
                                                : "a body that is not expected here"});
    close_after(response);
    return Done::Handled;
  });
  // What the library refuses by itself.
  http.set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (response.has_header("Content-Type")) return;
    answer(response, ApiError{response.status, "invalid_request_error", "the request could not be read"});
    close_after(response);
  });
  http.set_exception_handler(
      [](const httplib::Request&, httplib::Response& response, const std::exception_ptr& exception) {
        answer(response, error_of(exception));
      });
}

void HttpFront::dispatch(const httplib::Request& request, httplib::Response& response,
                         const httplib::ContentReader* reader) {
  allow_origin(request, response);
  if (request.method == "OPTIONS") return preflight(request, response);
  try {
    route(request, response, reader);
  } catch (...) {
    answer(response, error_of(std::current_exception()));
  }
}

void HttpFront::route(const httplib::Request& request, httplib::Response& response,
                      const httplib::ContentReader* reader) {
  ApiError refusal{0, "", ""};
  const Route* route = nullptr;
  try {
    route = &find(request, response);
    if (!route->open && !has_key(request))
      throw ApiError{401, "authentication_error", "Authorization: expected Bearer and a key of this server"};
    if (reader != nullptr) check_type(request);
  } catch (const ApiError& error) {
    refusal = error;
  }
  Body body;
  body.whole = true;
  const bool has_body = request.has_header("Content-Length") || request.has_header("Transfer-Encoding");
  if (reader != nullptr && has_body) body = read_body(request, response, *reader, options_.max_body_bytes);
  response.status = -1;
  if (refusal.status != 0) {
    answer(response, refusal);
  } else if (body.too_large) {
    answer(response, ApiError{413, "invalid_request_error",
                              fmt::format("the body is larger than {} bytes", options_.max_body_bytes)});
  } else if (!body.whole) {
    answer(response, ApiError{400, "invalid_request_error", "the body could not be read"});
  } else if (reader != nullptr && !has_body) {
    answer(response, ApiError{411, "invalid_request_error", "Content-Length: missing"});
  } else {
    route->handler(request, body.text, response);
  }
  if (!body.whole) close_after(response);
}

const HttpFront::Route& HttpFront::find(const httplib::Request& request, httplib::Response& response) const {
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  for (const Route& known : routes_) {
    if (known.method == method && covers(known, request.path)) return known;
  }
  const std::string allowed = methods_of(request.path);
  if (allowed.empty())
    throw ApiError{404, "invalid_request_error",
                   fmt::format("no such path: {}", request.path.substr(0, 128))};
  response.set_header("Allow", allowed);
  throw ApiError{405, "invalid_request_error",
                 fmt::format("{}: found the method {}, expected {}", request.path.substr(0, 128),
                             request.method, allowed)};
}

std::string HttpFront::methods_of(const std::string& path) const {
  std::string methods;
  for (const Route& known : routes_) {
    if (covers(known, path)) methods += (known.method == "GET" ? "GET, HEAD" : known.method) + ", ";
  }
  return methods.empty() ? "" : methods + "OPTIONS";
}

bool HttpFront::has_key(const httplib::Request& request) const {
  if (options_.api_keys.empty()) return true;
  constexpr std::string_view kScheme = "bearer ";
  const std::string given = request.get_header_value("Authorization");
  if (lowered(given.substr(0, kScheme.size())) != kScheme) return false;
  bool known = false;
  for (const std::string& key : options_.api_keys)
    known |= same_key(std::string_view(given).substr(kScheme.size()), key);
  return known;
}

void HttpFront::allow_origin(const httplib::Request& request, httplib::Response& response) const {
  if (options_.cors_origin.empty()) return;
  const std::string origin = request.get_header_value("Origin");
  if (options_.cors_origin != "*") response.set_header("Vary", "Origin");
  if (options_.cors_origin == "*" || origin == options_.cors_origin)
    response.set_header("Access-Control-Allow-Origin", options_.cors_origin);
}

void HttpFront::preflight(const httplib::Request& request, httplib::Response& response) const {
  const std::string allowed = methods_of(request.path);
  if (allowed.empty()) {
    return answer(response, ApiError{404, "invalid_request_error",
                                     fmt::format("no such path: {}", request.path.substr(0, 128))});
  }
  response.status = 204;
  response.set_header("Allow", allowed);
  if (options_.cors_origin.empty()) return;
  response.set_header("Access-Control-Allow-Methods", allowed);
  response.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type");
  response.set_header("Access-Control-Max-Age", "600");
}

}  // namespace swiftprune
