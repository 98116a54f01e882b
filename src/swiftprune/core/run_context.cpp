#include "swiftprune/core/run_context.h"

#include <utility>

#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

thread_local const RunContext* bound_run = nullptr;

}  // namespace

RunScope::RunScope(RunContext context)
    : context_(std::move(context)), outer_(bound_run), outer_threads_(num_threads()) {
  if (context_.timeline == nullptr && outer_ != nullptr) context_.timeline = outer_->timeline;
  bound_run = &context_;
  set_num_threads(context_.threads);
}

RunScope::~RunScope() {
  bound_run = outer_;
  set_num_threads(outer_threads_);
}

RunContext current_run() {
  RunContext run;
  if (bound_run != nullptr) run = *bound_run;
  run.threads = num_threads();  // also what the run set in between
  return run;
}

RunLoan::RunLoan(const RunContext* lent) : outer_(bound_run) { bound_run = lent; }

RunLoan::~RunLoan() { bound_run = outer_; }

const RunContext* RunLoan::bound() { return bound_run; }

void check_interrupt() {
  if (bound_run != nullptr && bound_run->stop.stop_requested()) throw Interrupted();
}

}  // namespace swiftprune
