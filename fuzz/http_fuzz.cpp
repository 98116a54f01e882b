// Arbitrary bytes as what a client sends, through the HTTP library and what stands in front of the endpoints, with a key,
// CORS and small bodies. The answer is read by nobody.
#include <algorithm>
#include <cstring>

#include "fuzz_folder.h"
#include "fuzz_model.h"
#include "swiftprune/serving/http_front.h"

namespace {

using namespace swiftprune;

class OneClient final : public httplib::Stream {
 public:
  explicit OneClient(std::string_view input) : left_(input) {}
  using httplib::Stream::write;

  bool is_readable() const override { return !left_.empty(); }
  bool is_writable() const override { return true; }
  ssize_t read(char* to, std::size_t size) override {
    const std::size_t taken = std::min(size, left_.size());
    std::memcpy(to, left_.data(), taken);
    left_.remove_prefix(taken);
    return static_cast<ssize_t>(taken);
  }
  ssize_t write(const char*, std::size_t size) override { return static_cast<ssize_t>(size); }
  void get_remote_ip_and_port(std::string& ip, int& port) const override { ip = "127.0.0.1", port = 1; }
  void get_local_ip_and_port(std::string& ip, int& port) const override { ip = "127.0.0.1", port = 2; }
  socket_t socket() const override { return INVALID_SOCKET; }

 private:
  std::string_view left_;
};

class FrontServer : public HttpServer {
 public:
  FrontServer()
      : front_({.max_body_bytes = 4096, .cors_origin = "http://a.example", .api_keys = {"secret"}},
               routes()) {
    front_.attach(*this);
  }
  void take(std::string_view input) {
    OneClient client(input);
    while (client.is_readable() && answer_one(client, false)) {
    }
  }

 private:
  static std::vector<HttpFront::Route> routes() {
    const auto say = [](const httplib::Request&, const std::string& body, httplib::Response& response) {
      answer(response, 200, {{"body", body}});
    };
    const auto complete = [](bool chat) {
      return [chat](const httplib::Request&, const std::string& body, httplib::Response& response) {
        const fuzz::ServedModel& served = fuzz::served_model();
        const ApiRequest request = chat ? parse_chat(body, served.api, &served.chat, served.limits)
                                        : parse_completion(body, served.api, served.limits);
        answer(response, 200, {{"answers", request.generations.size()}});
      };
    };
    return {{"GET", "/health", true, say},
            {"GET", "/v1/models", false, say},
            {"GET", "/v1/models/", false, say},
            {"POST", "/v1/completions", false, complete(false)},
            {"POST", "/v1/chat/completions", false, complete(true)}};
  }

  HttpFront front_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static FrontServer server;
  server.take(fuzz::text(data, size));
  return 0;
}
