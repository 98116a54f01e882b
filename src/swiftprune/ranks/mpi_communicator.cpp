// What libswiftprune_mpi.so exports for mpi_library.cpp: the ranks of MPI_COMM_WORLD. Nothing blocks inside MPI: every
// wait looks for an interrupt and for the time limit, sleeping ever longer, for the processor may be busy with the
// ranks that are waited for.
#include "swiftprune/ranks/mpi_library.h"

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <type_traits>
#include <vector>

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"

namespace swiftprune {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostBytes = std::size_t{1} << 28;  // of a message: MPI counts in int

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(ErrorKind::kFailure, "--ranks: {} of MPI failed: {}", what, text);
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(std::chrono::seconds time_limit) : time_limit_(time_limit) {
    int level = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  }
  ~MpiCommunicator() override { MPI_Finalize(); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  // MPI's own end would keep the processor busy meanwhile.
  void finish() override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(MPI_COMM_WORLD, &request), "MPI_Ibarrier");
    wait(request, 0, std::chrono::hours(24 * 365));
  }
  void abort(int exit_code) override { MPI_Abort(MPI_COMM_WORLD, exit_code); }

 private:
  // body(bytes, count) of each part of a long message.
  template <class Byte, class Body>
  static void for_parts(std::span<Byte> bytes, const Body& body) {
    for (std::size_t first = 0; first < bytes.size(); first += kMostBytes) {
      const std::size_t count = std::min(kMostBytes, bytes.size() - first);
      body(bytes.data() + first, static_cast<int>(count));
    }
  }

  void do_send(int to, std::span<const std::byte> bytes) override {
    for_parts(bytes, [&](const std::byte* data, int count) {
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Isend(data, count, MPI_BYTE, to, 0, MPI_COMM_WORLD, &request), "MPI_Isend");
      sends_.push_back({request, to});
    });
  }

  void do_receive(int from, std::span<std::byte> bytes) override {
    for_parts(bytes, [&](std::byte* data, int count) {
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Irecv(data, count, MPI_BYTE, from, 0, MPI_COMM_WORLD, &request), "MPI_Irecv");
      wait(request, from, time_limit_);
    });
  }

  void do_finish_sends() override {
    for (Send& send : sends_) wait(send.request, send.to, time_limit_);
    sends_.clear();
  }

  void do_broadcast(int root, std::span<std::byte> bytes) override {
    for_parts(bytes, [&](std::byte* data, int count) {
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Ibcast(data, count, MPI_BYTE, root, MPI_COMM_WORLD, &request), "MPI_Ibcast");
      wait(request, root, time_limit_);
    });
  }

  static void wait(MPI_Request& request, int other, std::chrono::seconds time_limit) {
    const auto start = Clock::now();
    std::chrono::microseconds pause{0};
    for (int done = 0; true;) {
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) return;
      check_interrupt();
      if (Clock::now() - start > time_limit) {
        fail(ErrorKind::kFailure,
             "nothing was heard of rank {} for {} s; it hangs, or has more to do than that (--rank-timeout)",
             other, time_limit.count());
      }
      std::this_thread::sleep_for(pause);
      pause = std::min(pause + std::chrono::microseconds(20), std::chrono::microseconds(1000));
    }
  }

  struct Send {
    MPI_Request request;
    int to;
  };
  std::chrono::seconds time_limit_;
  int rank_ = 0;
  int size_ = 1;
  std::vector<Send> sends_;
};

}  // namespace
}  // namespace swiftprune

extern "C" const char* swiftprune_mpi_version() { return SWIFTPRUNE_VERSION; }

extern "C" swiftprune::Communicator* swiftprune_make_mpi_communicator(std::chrono::seconds time_limit) {
  return new swiftprune::MpiCommunicator(time_limit);
}

// As mpi_library.h says.
static_assert(std::is_same_v<decltype(&swiftprune_make_mpi_communicator), swiftprune::MakeMpiCommunicatorFn>);
