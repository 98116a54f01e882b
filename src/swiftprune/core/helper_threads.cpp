#include "swiftprune/core/helper_threads.h"

#include <omp.h>

namespace swiftprune {

void release_helper_threads() { omp_pause_resource_all(omp_pause_soft); }

}  // namespace swiftprune
