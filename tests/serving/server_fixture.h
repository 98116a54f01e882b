// A server over a tiny model, asked through real sockets.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include "swiftprune/core/parallel.h"
#include "swiftprune/serving/batch_engine.h"
#include "swiftprune/serving/server.h"

namespace swiftprune::test {

// A connection that has sent this.
inline int connection_with(int port, const std::string& bytes) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(::send(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return fd;
}

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
    start_with(*engine_, options);
  }

  void start_with(SequenceEngine& engine, const ServerOptions& options) {
    server_ = std::make_unique<Server>(*model_, engine, *tokenizer_, options);
    thread_ = std::thread([this] { server_->run(); });
    for (int i = 0; i < 500 && !client().Get("/health"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  httplib::Client client() {
    httplib::Client result("127.0.0.1", server_->port());
    result.set_read_timeout(60, 0);
    return result;
  }

  httplib::Result complete(const nlohmann::json& body) {
    return client().Post("/v1/completions", body.dump(), "application/json");
  }

  double metric(const std::string& name) {
    const std::string text = client().Get("/metrics")->body;
    const std::size_t at = text.find("\nswiftprune_" + name + " ");
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + name.size() + 13));
  }

  static constexpr const char* kFolder = SWIFTPRUNE_TEST_DATA "/evaluation/model";
  std::unique_ptr<Model> model_ = Model::open(kFolder);
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::open(kFolder);
  std::unique_ptr<BatchEngine> engine_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

}  // namespace swiftprune::test
