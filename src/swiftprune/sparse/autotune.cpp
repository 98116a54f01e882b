#include "swiftprune/sparse/autotune.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

constexpr int kRounds = 5;
constexpr int kMostRounds = 20;  // while they are not steady
constexpr int kNear = 3;         // rounds that must come near the best
constexpr double kNearness = 1.1;
constexpr std::int64_t kMaxFlushBytes = std::int64_t{128} << 20;

// Pushes everything else out of the cache by reading more than fits.
class CacheFlush {
 public:
  CacheFlush() {
    const long cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
    const std::int64_t bytes =
        std::min(kMaxFlushBytes, std::max<std::int64_t>(cache, std::int64_t{16} << 20) * 3 / 2);
    words_.assign(static_cast<std::size_t>(bytes / 8), 1);
  }
  void run() {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < words_.size(); i += 8) sum += words_[i];
    words_[0] = sum;  // keeps the reads
  }

 private:
  std::vector<std::uint64_t> words_;
};

double microseconds(const Linear& linear, ConstMatrixView x, MatrixView y, ComputeType compute) {
  const auto start = std::chrono::steady_clock::now();
  linear.forward(x, {}, y, compute);
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

// Without zeros left out, and the same numbers.
PackedTensor to_dense(const PackedTensor& packed) {
  if (is_grid(packed.kind())) return pack(unpack_quantized(packed), {PackedKind::kDenseGrid});
  const std::vector<std::uint16_t> bits = unpack(packed);
  return pack({bits, packed.rows(), packed.cols(), packed.shape().dtype}, {PackedKind::kDense16});
}

bool is_steady(const std::vector<double>& times) {
  const double limit = kNearness * *std::min_element(times.begin(), times.end());
  return std::count_if(times.begin(), times.end(), [&](double time) { return time <= limit; }) >= kNear;
}

TuneResult time_both(const PackedTensor& packed, std::int64_t tokens, ComputeType compute) {
  const Linear sparse(packed);
  const Linear dense(to_dense(packed));
  const Matrix x = Matrix::zeros(tokens, packed.cols());
  Matrix y(tokens, packed.rows());
  CacheFlush flush;
  std::vector<double> dense_times;
  std::vector<double> packed_times;
  for (int round = 0; round <= kMostRounds; ++round) {
    flush.run();
    const double dense_us = microseconds(dense, x.view(), y.view(), compute);
    flush.run();
    const double packed_us = microseconds(sparse, x.view(), y.view(), compute);
    if (round == 0) continue;  // code and threads were cold
    dense_times.push_back(dense_us);
    packed_times.push_back(packed_us);
    if (round >= kRounds && is_steady(dense_times) && is_steady(packed_times)) break;
  }
  const auto least = [](const std::vector<double>& times) {
    return *std::min_element(times.begin(), times.end());
  };
  return {least(packed_times), least(dense_times), is_steady(dense_times) && is_steady(packed_times)};
}

bool is_time(const Timings::Entry& entry, const char* name) {
  const auto found = entry.find(name);
  return found != entry.end() && std::isfinite(found->second) && found->second > 0.0;
}

}  // namespace

Autotuner::Autotuner(std::filesystem::path cache_file)
    : timings_(std::move(cache_file)), stopwatch_(time_both) {}

std::string Autotuner::key(const PackedTensor& packed, std::int64_t tokens, ComputeType compute) {
  const PackedShape& shape = packed.shape();
  return fmt::format("{} | {} | {} threads | {} | {}x{} {} {} {}:{} {:.2f} | {} tokens {}", cpu_model_name(),
                     isa_name(), num_threads(), SWIFTPRUNE_VERSION, shape.rows, shape.cols,
                     is_grid(shape.kind) ? describe(shape) : std::string(name_of(shape.kind)),
                     name_of(shape.dtype), shape.group_n, shape.group_m,
                     std::round(packed.density() * 20.0) / 20.0, tokens,
                     compute == ComputeType::kBF16 ? "bf16" : "f32");
}

TuneResult Autotuner::measure(const PackedTensor& packed, std::int64_t tokens, ComputeType compute) {
  const std::string name = key(packed, tokens, compute);
  const Timings::Entry* known = timings_.find(name);
  if (known != nullptr && is_time(*known, "packed_us") && is_time(*known, "dense_us"))
    return {known->at("packed_us"), known->at("dense_us")};
  if (const auto found = unsteady_.find(name); found != unsteady_.end()) return found->second;
  current_run().progress("measure kernels", ++num_measured_, 0);
  const TuneResult result = stopwatch_(packed, tokens, compute);
  if (result.steady) {
    timings_.set(name, {{"packed_us", result.packed_us}, {"dense_us", result.dense_us}});
  } else {
    unsteady_[name] = result;
  }
  return result;
}

PackedTensor Autotuner::faster(const PackedTensor& packed, std::int64_t tokens, ComputeType compute) {
  const bool dense = packed.kind() == PackedKind::kDense16 || packed.kind() == PackedKind::kDenseGrid;
  if (dense || measure(packed, tokens, compute).packed_wins()) return packed;
  return to_dense(packed);
}

}  // namespace swiftprune
