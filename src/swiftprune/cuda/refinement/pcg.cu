// The row loops of conjugate gradients on the kept weights (refinement/pcg.h); a block a row. The products
// between them are the caller's.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void diagonal_kernel(const float* gram, std::int64_t n, float damping,
                                                            float* diagonal) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j < n) diagonal[j] = 1.0f / (gram[j * n + j] + damping);
}

template <class T>
__global__ __launch_bounds__(kThreads) void start_kernel(PcgArgs args, const float* start) {
  const std::int64_t row = std::int64_t{blockIdx.x} * args.cols;
  const auto* weight = static_cast<const T*>(args.weight);
  for (std::int64_t i = row + threadIdx.x; i < row + args.cols; i += kThreads) {
    const float w = to_float(weight[i]);
    const float b = args.mask[i] == 0 ? 0.0f : start != nullptr ? start[i] : w;
    args.b[i] = b;
    args.p[i] = w - b;
  }
}

__global__ __launch_bounds__(kThreads) void begin_kernel(PcgArgs args) {
  __shared__ float scratch[kWarp + 1];
  const std::int64_t row = std::int64_t{blockIdx.x} * args.cols;
  float energy = 0.0f;
  for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
    const std::int64_t i = row + j;
    const float r = args.q[i] + args.damping * args.p[i];
    const float p = args.mask[i] == 0 ? 0.0f : args.diagonal[j] * r;
    args.r[i] = r;
    args.p[i] = p;
    energy += p * r;
  }
  energy = block_sum(energy, scratch);
  if (threadIdx.x == 0) args.energy[blockIdx.x] = energy;
}

__global__ __launch_bounds__(kThreads) void step_kernel(PcgArgs args) {
  __shared__ float scratch[kWarp + 1];
  const std::int64_t row = std::int64_t{blockIdx.x} * args.cols;
  const float old = args.energy[blockIdx.x];
  float curvature = 0.0f;
  for (std::int64_t i = row + threadIdx.x; i < row + args.cols; i += kThreads) {
    curvature += args.p[i] * (args.q[i] + args.damping * args.p[i]);
  }
  curvature = block_sum(curvature, scratch);
  if (!(curvature > 0.0f) || !(old > 0.0f)) return;  // the row has converged
  const float alpha = old / curvature;
  float now = 0.0f;
  for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
    const std::int64_t i = row + j;
    args.b[i] += alpha * args.p[i];
    const float r = args.r[i] - alpha * (args.q[i] + args.damping * args.p[i]);
    args.r[i] = r;
    if (args.mask[i] != 0) now += args.diagonal[j] * r * r;
  }
  now = block_sum(now, scratch);
  const float beta = now / old;
  for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
    const std::int64_t i = row + j;
    if (args.mask[i] != 0) args.p[i] = args.diagonal[j] * args.r[i] + beta * args.p[i];
  }
  if (threadIdx.x == 0) args.energy[blockIdx.x] = now;
}

}  // namespace

void pcg_diagonal(const float* gram, std::int64_t n, float damping, float* diagonal, cudaStream_t stream) {
  if (n == 0) return;
  const auto blocks = blocks_for(n, kThreads);
  diagonal_kernel<<<blocks, kThreads, 0, stream>>>(gram, n, damping, diagonal);
  check_launch("pcg_diagonal");
}

void pcg_start(const PcgArgs& args, const float* start, cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  with_type(args.dtype, [&](auto zero) {
    start_kernel<decltype(zero)><<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args, start);
  });
  check_launch("pcg_start");
}

void pcg_begin(const PcgArgs& args, cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  begin_kernel<<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args);
  check_launch("pcg_begin");
}

void pcg_step(const PcgArgs& args, cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  step_kernel<<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args);
  check_launch("pcg_step");
}

}  // namespace swiftprune::cuda
