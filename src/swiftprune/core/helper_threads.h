// The threads that help one thread in parallel loops (core/parallel.h).
#pragma once

namespace swiftprune {

// Those of the calling thread end; its next loop starts new ones. For a thread that leaves the work to another from now on:
// OpenMP counts the helpers of both, and where these are more than there are cores, threads that wait sleep at once instead
// of spinning, so that each loop waits until the system has woken them.
void release_helper_threads();

}  // namespace swiftprune
