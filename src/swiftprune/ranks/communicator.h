// Several processes that do one run together, each a rank from 0 on: what they say to one another. All ranks call the
// same things in the same order; bytes alone pass between them. A run in one process has alone(), where nothing is
// sent. launcher.h finds out whether there are others, mpi_library.h makes the one between processes.
//
// A wait ends: with what was waited for, with an interrupt of the run (core/run_context.h), or with Error{kFailure} that
// names the rank of which nothing was heard within the time limit.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace swiftprune {

class DeviceLink;

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  bool is_first() const { return rank() == 0; }

  // To another rank, in the order of the calls. The bytes must stay as they are until finish_sends().
  void send(int to, std::span<const std::byte> bytes);
  // As many bytes as the other rank sends.
  void receive(int from, std::span<std::byte> bytes);
  void finish_sends();
  // Of `root`, to all.
  void broadcast(int root, std::span<std::byte> bytes);

  // Between the GPUs of the ranks; null where they have none.
  virtual DeviceLink* device_link() { return nullptr; }

  // "rank 2 of 4"
  std::string name() const;
  // Until all ranks are here at the end, however long the first one still writes: the one wait without a time limit.
  virtual void finish() = 0;
  // Ends all ranks, this one last and with the exit code, where they cannot go on together. May return.
  virtual void abort(int exit_code) = 0;

 private:
  virtual void do_send(int to, std::span<const std::byte> bytes) = 0;
  virtual void do_receive(int from, std::span<std::byte> bytes) = 0;
  virtual void do_finish_sends() = 0;
  virtual void do_broadcast(int root, std::span<std::byte> bytes) = 0;
};

// One process, rank 0 of 1.
Communicator& alone();

inline constexpr std::chrono::seconds kRankTimeLimit{600};

// Which of `count` equal pieces of work are a rank's: [first, first + count), one rank's after the other's; the first
// has some where there are any.
struct Share {
  std::int64_t first = 0;
  std::int64_t count = 0;
};
Share share_of(std::int64_t count, int rank, int size);

// A text of rank `root`, to all.
void broadcast_text(Communicator& ranks, int root, std::string& text);

// Sums over what the ranks have, in their order: those of the ranks before come into `sums`, add() adds this rank's, and
// they go on; afterwards all have all. Every element is added up as one process would that has all of it.
void add_in_order(Communicator& ranks, std::span<const std::span<std::byte>> sums,
                  const std::function<void()>& add);
// Each of the values is known to the rank that owner() says; afterwards to all.
void exchange_owned(Communicator& ranks, std::span<double> values,
                    const std::function<int(std::size_t)>& owner);
// Of whole numbers, whose order does not matter.
void add_counts(Communicator& ranks, std::span<std::int64_t> counts);
}  // namespace swiftprune
