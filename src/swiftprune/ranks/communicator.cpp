#include "swiftprune/ranks/communicator.h"

#include <fmt/format.h>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"

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
  if (!bytes.empty()) do_receive(from, bytes);
}

void Communicator::finish_sends() { do_finish_sends(); }

void Communicator::broadcast(int root, std::span<std::byte> bytes) {
  expect(root >= 0 && root < size(), "broadcast: of one of the ranks");
  if (!bytes.empty() && size() > 1) do_broadcast(root, bytes);
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

}  // namespace swiftprune
