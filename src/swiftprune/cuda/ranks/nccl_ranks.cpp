#include "swiftprune/cuda/ranks/nccl_ranks.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <optional>
#include <thread>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/ranks/nccl_library.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/ranks/device_link.h"

namespace swiftprune::cuda {
namespace {

using Clock = std::chrono::steady_clock;

NcclLibrary::Id id_of(const std::string& bytes) {
  NcclLibrary::Id id{};
  expect(bytes.size() == sizeof(id.bytes), "join_nccl: an id of make_nccl_id()");
  std::memcpy(id.bytes, bytes.data(), sizeof(id.bytes));
  return id;
}

// NCCL waits for all ranks without an end, so that happens in a thread of its own; when the time is up, the program is
// about to end and the thread with it.
NcclLibrary::Comm join(const NcclLibrary& nccl, const NcclRank& rank) {
  std::promise<std::pair<int, NcclLibrary::Comm>> promise;
  auto joined = promise.get_future();
  std::thread([&nccl, promise = std::move(promise), id = id_of(rank.id), number = rank.rank, size = rank.size,
               gpu = rank.gpu]() mutable {
    NcclLibrary::Comm comm = nullptr;
    int result = 1;
    if (cudaSetDevice(gpu) == cudaSuccess) result = nccl.comm_init_rank(&comm, size, id, number);
    promise.set_value({result, comm});
  }).detach();
  const auto start = Clock::now();
  while (joined.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) {
    check_interrupt();
    if (Clock::now() - start > rank.time_limit) {
      fail(ErrorKind::kDevice, "several GPUs: not all of {} ranks have come within {} s (--rank-timeout)",
           rank.size, rank.time_limit.count());
    }
  }
  const auto [result, comm] = joined.get();
  nccl.check(result, "ncclCommInitRank");
  return comm;
}

class NcclLink final : public DeviceLink {
 public:
  explicit NcclLink(const NcclRank& rank) : time_limit_(rank.time_limit), comm_(join(nccl_, rank)) {}
  ~NcclLink() override {
    if (comm_ != nullptr) nccl_.comm_destroy(comm_);
  }

  void send(int to, const void* data, std::uint64_t bytes, Stream stream) override {
    nccl_.check(nccl_.send(data, bytes, NcclLibrary::kBytes, to, comm_, stream), "ncclSend");
  }
  void receive(int from, void* data, std::uint64_t bytes, Stream stream) override {
    nccl_.check(nccl_.receive(data, bytes, NcclLibrary::kBytes, from, comm_, stream), "ncclRecv");
  }
  void broadcast(int root, void* data, std::uint64_t bytes, Stream stream) override {
    nccl_.check(nccl_.broadcast(data, data, bytes, NcclLibrary::kBytes, root, comm_, stream),
                "ncclBroadcast");
  }
  void sum(void* values, std::int64_t count, Stream stream) override {
    nccl_.check(nccl_.all_reduce(values, values, static_cast<std::size_t>(count), NcclLibrary::kUint64,
                                 NcclLibrary::kSum, comm_, stream),
                "ncclAllReduce");
  }
  void wait(Stream stream) override { wait(stream, time_limit_); }

  // Looks often at first, for most waits are short, then ever less often.
  void wait(Stream stream, std::chrono::seconds limit) {
    const auto start = Clock::now();
    std::chrono::microseconds pause{0};
    for (;;) {
      const cudaError_t state = cudaStreamQuery(stream);
      if (state == cudaSuccess) return;
      if (state != cudaErrorNotReady) check(state);
      check_interrupt();
      int error = NcclLibrary::kSuccess;
      nccl_.check(nccl_.comm_get_async_error(comm_, &error), "ncclCommGetAsyncError");
      nccl_.check(error, "the exchange");
      const auto waited = Clock::now() - start;
      if (waited > limit) {
        fail(ErrorKind::kFailure,
             "nothing was heard of the other ranks for {} s; one hangs, or has more to do than that "
             "(--rank-timeout)",
             limit.count());
      }
      if (waited < std::chrono::milliseconds(5)) continue;
      std::this_thread::sleep_for(pause);
      pause = std::min(pause + std::chrono::microseconds(20), std::chrono::microseconds(1000));
    }
  }

  // Whatever the device still waits for ends.
  void abort() {
    if (comm_ != nullptr) nccl_.comm_abort(comm_);
    comm_ = nullptr;
  }

 private:
  const NcclLibrary& nccl_ = NcclLibrary::open();
  std::chrono::seconds time_limit_;
  NcclLibrary::Comm comm_;
};

class NcclCommunicator final : public Communicator {
 public:
  explicit NcclCommunicator(const NcclRank& rank)
      : rank_(rank.rank),
        size_(rank.size),
        host_(rank.host),
        link_(rank),
        memory_(0),
        staging_(memory_, kStagingBytes, "messages between ranks") {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  DeviceLink* device_link() override { return &link_; }

  void finish() override {
    if (host_ != nullptr) return host_->finish();
    check(cudaMemsetAsync(staging_.data(), 0, sizeof(std::uint64_t), stream_));
    link_.sum(staging_.data(), 1, stream_);
    link_.wait(stream_, std::chrono::hours(24 * 365));
  }
  void abort(int exit_code) override {
    link_.abort();
    if (host_ != nullptr) host_->abort(exit_code);
  }

 private:
  static constexpr std::uint64_t kStagingBytes = std::uint64_t{16} << 20;

  // body(bytes of a part), each of which fits the staging memory.
  template <class Byte, class Body>
  static void for_parts(std::span<Byte> bytes, const Body& body) {
    for (std::size_t first = 0; first < bytes.size(); first += kStagingBytes)
      body(bytes.subspan(first, std::min<std::size_t>(kStagingBytes, bytes.size() - first)));
  }
  void put(std::span<const std::byte> part) {
    check(cudaMemcpyAsync(staging_.data(), part.data(), part.size(), cudaMemcpyHostToDevice, stream_));
  }
  void get(std::span<std::byte> part) {
    link_.wait(stream_);
    check(cudaMemcpyAsync(part.data(), staging_.data(), part.size(), cudaMemcpyDeviceToHost, stream_));
    stream_.synchronize();
  }

  void do_send(int to, std::span<const std::byte> bytes) override {
    if (host_ != nullptr) return host_->send(to, bytes);
    for_parts(bytes, [&](std::span<const std::byte> part) {
      put(part);
      link_.send(to, staging_.data(), part.size(), stream_);
      link_.wait(stream_);
    });
  }
  void do_receive(int from, std::span<std::byte> bytes) override {
    if (host_ != nullptr) return host_->receive(from, bytes);
    for_parts(bytes, [&](std::span<std::byte> part) {
      link_.receive(from, staging_.data(), part.size(), stream_);
      get(part);
    });
  }
  void do_finish_sends() override {
    if (host_ != nullptr) host_->finish_sends();
  }
  void do_broadcast(int root, std::span<std::byte> bytes) override {
    if (host_ != nullptr) return host_->broadcast(root, bytes);
    for_parts(bytes, [&](std::span<std::byte> part) {
      if (root == rank_) put(part);
      link_.broadcast(root, staging_.data(), part.size(), stream_);
      get(part);
    });
  }

  const int rank_, size_;
  Communicator* const host_;
  NcclLink link_;
  DeviceMemory memory_;
  Stream stream_;
  DeviceBuffer staging_;
};

}  // namespace

std::string make_nccl_id() {
  const NcclLibrary& nccl = NcclLibrary::open();
  NcclLibrary::Id id{};
  nccl.check(nccl.get_unique_id(&id), "ncclGetUniqueId");
  return {id.bytes, sizeof(id.bytes)};
}

std::unique_ptr<Communicator> join_nccl(const NcclRank& rank) {
  NcclLibrary::open();
  int count = 0;
  check(cudaGetDeviceCount(&count));
  if (rank.gpu >= count) {
    fail(ErrorKind::kDevice,
         "several GPUs: this host has {}, expected one for each of its ranks, {} at least", count,
         rank.gpu + 1);
  }
  check(cudaSetDevice(rank.gpu));
  return std::make_unique<NcclCommunicator>(rank);
}

}  // namespace swiftprune::cuda
