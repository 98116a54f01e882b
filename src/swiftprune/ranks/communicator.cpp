#include "swiftprune/ranks/communicator.h"

#include <vector>

#include <fmt/format.h>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/timeline.h"

namespace swiftprune {
namespace {

class Alone final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void finish() override {}
  void abort(int) override {}

 private:
  void do_send(int, std::span<const std::byte>) override { expect(false, "send: another rank"); }
  void do_receive(int, std::span<std::byte>) override { expect(false, "receive: another rank"); }
  void do_finish_sends() override {}
  void do_broadcast(int, std::span<std::byte>) override {}
};

}  // namespace

void Communicator::send(int to, std::span<const std::byte> bytes) {
  expect(to >= 0 && to < size() && to != rank(), "send: another rank");
  if (!bytes.empty()) do_send(to, bytes);
}

void Communicator::receive(int from, std::span<std::byte> bytes) {
  expect(from >= 0 && from < size() && from != rank(), "receive: another rank");
  if (bytes.empty()) return;
  const TimelineStage stage("exchange");
  do_receive(from, bytes);
}

void Communicator::finish_sends() {
  const TimelineStage stage("exchange");
  do_finish_sends();
}

void Communicator::broadcast(int root, std::span<std::byte> bytes) {
  expect(root >= 0 && root < size(), "broadcast: of one of the ranks");
  if (bytes.empty() || size() == 1) return;
  const TimelineStage stage("exchange");
  do_broadcast(root, bytes);
}

std::string Communicator::name() const { return fmt::format("rank {} of {}", rank(), size()); }

Communicator& alone() {
  static Alone instance;
  return instance;
}

Share share_of(std::int64_t count, int rank, int size) {
  const auto begin = [&](std::int64_t of_rank) { return ceil_div(count * of_rank, size); };
  return {begin(rank), begin(rank + 1) - begin(rank)};
}

void broadcast_text(Communicator& ranks, int root, std::string& text) {
  auto length = static_cast<std::uint64_t>(text.size());
  ranks.broadcast(root, std::as_writable_bytes(std::span(&length, 1)));
  text.resize(static_cast<std::size_t>(length));
  ranks.broadcast(root, std::as_writable_bytes(std::span(text)));
}

void add_in_order(Communicator& ranks, std::span<const std::span<std::byte>> sums,
                  const std::function<void()>& add) {
  if (!ranks.is_first()) {
    for (const auto bytes : sums) ranks.receive(ranks.rank() - 1, bytes);
  }
  add();
  const int last = ranks.size() - 1;
  if (ranks.rank() < last) {
    for (const auto bytes : sums) ranks.send(ranks.rank() + 1, bytes);
    ranks.finish_sends();
  }
  for (const auto bytes : sums) ranks.broadcast(last, bytes);
}

void exchange_owned(Communicator& ranks, std::span<double> values,
                    const std::function<int(std::size_t)>& owner) {
  std::vector<double> theirs(values.size());
  for (int rank = 0; rank < ranks.size(); ++rank) {
    if (rank == ranks.rank()) theirs.assign(values.begin(), values.end());
    ranks.broadcast(rank, std::as_writable_bytes(std::span(theirs)));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (owner(i) == rank) values[i] = theirs[i];
    }
  }
}

void add_counts(Communicator& ranks, std::span<std::int64_t> counts) {
  const std::vector<std::int64_t> own(counts.begin(), counts.end());
  const std::span<std::byte> sums[] = {std::as_writable_bytes(counts)};
  add_in_order(ranks, sums, [&] {
    for (std::size_t i = 0; i < own.size(); ++i) counts[i] = ranks.is_first() ? own[i] : counts[i] + own[i];
  });
}

}  // namespace swiftprune
