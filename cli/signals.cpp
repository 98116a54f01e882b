#include "signals.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

namespace swiftprune::cli {
namespace {

std::atomic<int> received{0};

std::stop_source& source() {
  static std::stop_source instance;
  return instance;
}

bool is_ignored(int signal) {
  struct sigaction action {};
  return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

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
      if (sigwait(&signals, &signal) != 0) continue;
      if (int none = 0; !received.compare_exchange_strong(none, signal)) ::_exit(128 + signal);
      stop.request_stop();
    }
  }).detach();  // it waits as long as the process lives
}

std::stop_token program_stop() { return source().get_token(); }

int stopping_signal() { return received.load(); }

}  // namespace swiftprune::cli
