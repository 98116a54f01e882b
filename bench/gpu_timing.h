// The clock of the GPU benchmarks.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "swiftprune/cuda/runtime/runtime.h"

namespace swiftprune {

struct GpuTiming {
  int warm_ups = 1;
  int repeats = 1;
  int pause_ms = 0;  // before each repeat: the power limit is reached later
};

// Median milliseconds of `body` on the device.
inline double median_ms(cudaStream_t stream, const GpuTiming& timing, const std::function<void()>& body) {
  for (int i = 0; i < timing.warm_ups; ++i) body();
  std::vector<float> ms;
  for (int i = 0; i < timing.repeats; ++i) {
    const cuda::Event start(true);
    const cuda::Event end(true);
    if (timing.pause_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(timing.pause_ms));
    start.record(stream);
    body();
    end.record(stream);
    end.synchronize();
    ms.push_back(end.ms_since(start));
  }
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}

}  // namespace swiftprune
