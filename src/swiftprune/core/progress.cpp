#include "swiftprune/core/progress.h"

#include <atomic>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

std::atomic<bool> interrupted{false};  // the one process-wide flag: a signal has no other way in
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

void request_interrupt() { interrupted.store(true); }

void check_interrupt() {
  if (interrupted.load()) throw Error(ErrorKind::kFailure, "interrupted: nothing was written");
}

}  // namespace swiftprune
