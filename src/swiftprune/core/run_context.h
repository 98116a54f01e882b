// What belongs to one run and not to the process: its stop token, where it tells its progress, its threads. A
// job binds it to its thread for as long as it works, so that two jobs of one program, each in a thread of
// its own, stop, count and report apart; signatures deep in the library stay as they are.
#pragma once

#include <stop_token>
#include <string>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"

namespace swiftprune {

class Timeline;

// What check_interrupt() throws. Whoever knows what became of the output adds that: "nothing was written", "8
// blocks are kept".
class Interrupted : public Error {
 public:
  Interrupted() : Error(ErrorKind::kInterrupted, "interrupted") {}
  explicit Interrupted(const std::string& kept) : Error(ErrorKind::kInterrupted, "interrupted: " + kept) {}
};

struct RunContext {
  std::stop_token stop = {};  // none: the run cannot be stopped
  ProgressFn progress = [](std::string_view, std::int64_t, std::int64_t) {};
  int threads = 0;  // of parallel loops; 0: one per core
  // What is done when (core/timeline.h); null: that of the scope around, or none.
  Timeline* timeline = nullptr;
};

// Binds the context to the calling thread, its parallel loops included, until the scope ends. Scopes nest.
class RunScope {
 public:
  explicit RunScope(RunContext context);
  RunScope(const RunScope&) = delete;
  RunScope& operator=(const RunScope&) = delete;
  ~RunScope();
  const RunContext& context() const { return context_; }

 private:
  RunContext context_;
  const RunContext* outer_;
  int outer_threads_;
};

// The calling thread's, to be bound in a thread that the run starts itself:
//   std::async(std::launch::async, [run = current_run()] { const RunScope scope(run); ... })
// Outside of every scope: cannot be stopped, tells nobody, the thread's own number of threads.
RunContext current_run();

// For core/parallel: lends the bound context of one thread to a worker of its loop.
class RunLoan {
 public:
  explicit RunLoan(const RunContext* lent);
  RunLoan(const RunLoan&) = delete;
  RunLoan& operator=(const RunLoan&) = delete;
  ~RunLoan();
  static const RunContext* bound();  // null outside of every scope

 private:
  const RunContext* outer_;
};

}  // namespace swiftprune
