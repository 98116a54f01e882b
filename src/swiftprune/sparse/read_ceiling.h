// What a product with a weight larger than the cache can at best run at: a plain read of memory.
#pragma once

#include <cstdint>

namespace swiftprune {

// Bytes per second of reading `num_bytes` once with all threads, several streams each; the best of `rounds`.
double measure_read_ceiling(std::int64_t num_bytes, int rounds);

}  // namespace swiftprune
