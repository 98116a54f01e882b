// Loops over threads (OpenMP). Chunks have a fixed size that does not depend on the number of threads, so a
// sum that is kept per chunk and added in chunk order gives the same bits with any number of threads.
#pragma once

#include <cstdint>
#include <functional>

namespace swiftprune {

// The chunk of loops over the rows of a matrix of which each is some microseconds of work.
inline constexpr std::int64_t kRowsATask = 16;

void set_num_threads(int n);  // of the calling thread's loops; n <= 0: one per available core
int num_threads();

// Calls body(first, last) for [0, n) in chunks of `chunk` (the last one may be shorter), in any order, on all
// threads. An exception of the body (the first one) is thrown again here, after all chunks have ended. Nested
// calls run serially.
void parallel_for(std::int64_t n, std::int64_t chunk,
                  const std::function<void(std::int64_t, std::int64_t)>& body);

}  // namespace swiftprune
