// Ranks that are threads of one program: what ranks do together, tested without MPI.
#pragma once

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune::test {

class ThreadRanks {
 public:
  explicit ThreadRanks(int size) : size_(size) {}

  // work(communicator) in a thread for each rank; the first error is thrown again.
  void run(const std::function<void(Communicator&)>& work) {
    std::exception_ptr first_error;
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([&, rank] {
        set_num_threads(1);  // threads that wait for work would keep the cores from other ranks
        Rank communicator(*this, rank);
        try {
          work(communicator);
        } catch (...) {
          const std::lock_guard lock(mutex_);
          if (!first_error) first_error = std::current_exception();
          stopped_ = true;
          arrived_.notify_all();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (first_error) std::rethrow_exception(first_error);
  }

 private:
  using Bytes = std::vector<std::byte>;

  class Rank final : public Communicator {
   public:
    Rank(ThreadRanks& all, int rank) : all_(all), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return all_.size_; }
    void finish() override {}
    void abort(int) override {}

   private:
    void do_send(int to, std::span<const std::byte> bytes) override { all_.put(rank_, to, bytes); }
    void do_receive(int from, std::span<std::byte> bytes) override { all_.take(from, rank_, bytes); }
    void do_finish_sends() override {}
    void do_broadcast(int root, std::span<std::byte> bytes) override {
      if (rank_ != root) return all_.take(root, rank_, bytes);
      for (int to = 0; to < size(); ++to) {
        if (to != root) all_.put(root, to, bytes);
      }
    }
    ThreadRanks& all_;
    int rank_;
  };

  void put(int from, int to, std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    messages_[{from, to}].emplace_back(bytes.begin(), bytes.end());
    arrived_.notify_all();
  }

  void take(int from, int to, std::span<std::byte> bytes) {
    std::unique_lock lock(mutex_);
    auto& queue = messages_[{from, to}];
    arrived_.wait(lock, [&] { return !queue.empty() || stopped_; });
    if (queue.empty()) fail(ErrorKind::kFailure, "another rank stopped");
    const Bytes message = std::move(queue.front());
    queue.pop_front();
    expect(message.size() == bytes.size(), "take: as many bytes as were sent");
    std::memcpy(bytes.data(), message.data(), message.size());
  }

  int size_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  bool stopped_ = false;
  std::map<std::pair<int, int>, std::deque<Bytes>> messages_;  // by sender and receiver
};

}  // namespace swiftprune::test
