#include "signals.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/core/error.h"

namespace swiftprune::cli {
namespace {

std::atomic<int> received{0};

std::stop_source& source() {
  static std::stop_source instance;
  return instance;
}

struct Taker {
  std::mutex mutex;
  std::function<bool()> take;
};

Taker& taker() {
  static Taker instance;
  return instance;
}

bool is_taken(int signal) {
  const std::lock_guard lock(taker().mutex);
  return signal == SIGINT && taker().take && taker().take();
}

bool is_ignored(int signal) {
  struct sigaction action {};
  return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

void write_error(const char* text) { (void)!::write(STDERR_FILENO, text, std::strlen(text)); }

// A mapped file that became shorter, or whose disk fails. Only what may be called in a signal handler.
void tell_lost_file(int signal, siginfo_t* info, void*) {
  if (const char* file = file_mapped_at(info->si_addr)) {
    write_error("\nswiftprune: ");
    write_error(file);
    write_error(
        ": its bytes can no longer be read: the file became shorter, or its disk fails; nothing was "
        "written\n");
    ::_exit(static_cast<int>(ErrorKind::kBadInput));
  }
  ::signal(signal, SIG_DFL);  // ours to debug: comes again at once
}

}  // namespace

void watch_lost_files() {
  struct sigaction action {};
  action.sa_sigaction = tell_lost_file;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

void watch_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  if (!is_ignored(SIGHUP)) sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals, stop = source()]() mutable {
    while (true) {
      int signal = 0;
      if (sigwait(&signals, &signal) != 0 || is_taken(signal)) continue;
      if (int none = 0; !received.compare_exchange_strong(none, signal)) ::_exit(128 + signal);
      stop.request_stop();
    }
  }).detach();  // it waits as long as the process lives
}

InterruptTaker::InterruptTaker(std::function<bool()> take) {
  const std::lock_guard lock(taker().mutex);
  expect(!taker().take, "one taker of interrupts");
  taker().take = std::move(take);
}

InterruptTaker::~InterruptTaker() {
  const std::lock_guard lock(taker().mutex);
  taker().take = nullptr;
}

std::stop_token program_stop() { return source().get_token(); }

int stopping_signal() { return received.load(); }

}  // namespace swiftprune::cli
