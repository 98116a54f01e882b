// Engines that say "the next id" to every id, and what the scheduler's tests ask of them.
#pragma once

#include <chrono>
#include <cmath>
#include <new>
#include <thread>

#include <gtest/gtest.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/sequence_engine.h"
#include "swiftprune/serving/scheduler.h"

namespace swiftprune::test {

// What a generation came to.
struct Result {
  std::vector<std::int32_t> tokens;
  FinishReason reason = FinishReason::kCancelled;
  std::string message;
};

inline Result finish(Generation& generation) {
  Result result;
  while (true) {
    const auto event = generation.next(std::chrono::seconds(60));
    if (!event) {
      ADD_FAILURE() << "no event within a minute";
      return result;
    }
    if (event->token) result.tokens.push_back(*event->token);
    if (event->finished) {
      result.reason = *event->finished;
      result.message = event->message;
      return result;
    }
  }
}

// Says "the next id" to every id, until something is wrong with one.
class FaultyEngine : public SequenceEngine {
 public:
  static constexpr std::int32_t kVocab = 50;
  static constexpr std::int32_t kNan = 40;       // its logits are NaN
  static constexpr std::int32_t kNoMemory = 41;  // std::bad_alloc when it comes in a prompt
  static constexpr std::int32_t kBroken = 42;    // a device error when it is decoded
  static constexpr std::int32_t kRefused = 43;   // an error of its request

  std::int64_t num_lanes() const override { return 4; }
  std::int64_t capacity() const override { return 1000; }
  std::optional<std::int64_t> start(const LaneStart&) override { return 0; }
  void trim(std::int64_t) override {}
  void drop(std::int64_t) override {}
  CacheMemory cache_memory() const override { return {}; }
  void swap(std::int64_t, std::int64_t) override {}
  ConstMatrixView prefill(std::int64_t, std::span<const std::int32_t> ids) override {
    return answer(ids.last(1));
  }
  ConstMatrixView decode(std::span<const std::int32_t> ids) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return answer(ids);
  }

 private:
  ConstMatrixView answer(std::span<const std::int32_t> ids) {
    logits_ = Matrix(std::ssize(ids), kVocab);
    for (std::int64_t lane = 0; lane < std::ssize(ids); ++lane) {
      const std::int32_t id = ids[static_cast<std::size_t>(lane)];
      if (id == kNoMemory) throw std::bad_alloc();
      if (id == kBroken) fail(ErrorKind::kDevice, "CUDA: an illegal memory access was encountered");
      if (id == kRefused) bad_input("token 0: found id 43");
      std::fill_n(logits_.row(lane), kVocab, id == kNan ? std::nanf("") : 0.0f);
      // Those that are fine stay among themselves.
      if (id != kNan) logits_.at(lane, id < 30 ? (id + 1) % 30 : id + 1) = 5.0f;
    }
    return logits_.view();
  }
  Matrix logits_;
};

inline GenerationRequest plain(std::vector<std::int32_t> prompt, std::int64_t max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

}  // namespace swiftprune::test
