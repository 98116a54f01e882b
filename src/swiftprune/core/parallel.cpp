#include "swiftprune/core/parallel.h"

#include <omp.h>

#include <algorithm>
#include <exception>
#include <mutex>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"

namespace swiftprune {

void set_num_threads(int n) { omp_set_num_threads(n > 0 ? n : omp_get_num_procs()); }

int num_threads() { return omp_get_max_threads(); }

void parallel_for(std::int64_t n, std::int64_t chunk,
                  const std::function<void(std::int64_t, std::int64_t)>& body) {
  expect(chunk > 0, "parallel_for needs a positive chunk");
  const std::int64_t num_chunks = ceil_div(n, chunk);
  if (num_chunks <= 1 || omp_in_parallel() || omp_get_max_threads() == 1) {
    for (std::int64_t c = 0; c < num_chunks; ++c) body(c * chunk, std::min(n, (c + 1) * chunk));
    return;
  }
  std::exception_ptr first_error;
  std::mutex error_mutex;
  const RunContext* const run = RunLoan::bound();
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t c = 0; c < num_chunks; ++c) {
    const RunLoan loan(run);  // so that a body can ask whether to stop
    try {
      body(c * chunk, std::min(n, (c + 1) * chunk));
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!first_error) first_error = std::current_exception();
    }
  }
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace swiftprune
