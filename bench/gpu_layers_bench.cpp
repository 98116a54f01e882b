// One linear at a time on the GPU, dense and in every storage, at the shapes of LLaMA-2-7B and for several numbers of
// tokens: what a product takes in a chain of equal ones, over more weights than the cache holds, as a recorded graph.
// Every product is checked against the dense one with the same weights before it is timed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "gpu_timing.h"
#include "gpu_weights.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/forward/attention_kernels.h"
#include "swiftprune/cuda/sparse/packed_weight.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kLeastBytes = std::int64_t{320} << 20;  // of the weights of a chain
constexpr std::int64_t kLeastProducts = 8;                     // of a chain
constexpr std::int64_t kMostTokens = 4096;

struct Storage {
  const char* name;
  std::int64_t group;  // of which `pruned` are pruned; 0: the row
  double pruned;
  PackFormat format;
  bool entries = false;
};
const Storage kStorages[] = {
    {"bitmap50", 0, 0.5, {.kind = PackedKind::kBitmap16}},
    {"entries50", 0, 0.5, {.kind = PackedKind::kBitmap16}, true},
    {"entries70", 0, 0.7, {.kind = PackedKind::kBitmap16}, true},
    {"2:4", 4, 0.5, {.kind = PackedKind::kNm16, .group_n = 2, .group_m = 4}},
    {"int4", 0, 0.0, {.kind = PackedKind::kDenseGrid}},
    {"int4-50", 0, 0.5, {.kind = PackedKind::kBitmapGrid}},
    {"int4-2:4", 4, 0.5, {.kind = PackedKind::kNmGrid, .group_n = 2, .group_m = 4}},
};

class Bench {
 public:
  explicit Bench(int repeats) : memory_(0), products_(memory_, stream_), repeats_(repeats) {}

  // Bytes a second of a kernel that only reads.
  double read_ceiling() {
    constexpr std::int64_t kBytes = std::int64_t{1} << 30;
    const cuda::DeviceBuffer bytes(memory_, kBytes + 16, "the read ceiling");
    check_status(cudaMemsetAsync(bytes.data(), 0, bytes.bytes(), stream_));
    const double ms = median_ms(stream_, {.warm_ups = 2, .repeats = 7}, [&] {
      cuda::read_all(bytes.data(), kBytes, bytes.as<std::uint32_t>() + kBytes / 4, stream_);
    });
    return 1e3 * static_cast<double>(kBytes) / ms;
  }

  void run(RandomShape shape, const std::vector<std::int64_t>& tokens,
           const std::vector<std::string>& storages, double ceiling) {
    const std::int64_t dense_bytes = 2 * shape.rows * shape.cols;
    const auto random_x = random_weight({kMostTokens, shape.cols}, 0, 0.0, kDtype);
    x_ = cuda::upload(memory_, std::span<const std::uint16_t>(random_x), "inputs", stream_);
    y_ = cuda::DeviceBuffer(memory_, static_cast<std::uint64_t>(2 * kMostTokens * shape.rows), "outputs");
    scratch_ = cuda::DeviceBuffer(memory_, static_cast<std::uint64_t>(dense_bytes), "expanded weights");
    std::map<std::int64_t, double> dense_us;
    {
      const auto bits = random_weight(shape, 0, 0.0, kDtype);
      std::vector<cuda::DeviceBuffer> copies;
      for (std::int64_t i = 0; i < copies_of(dense_bytes); ++i)
        copies.push_back(cuda::upload(memory_, std::span<const std::uint16_t>(bits), "weights", stream_));
      for (const std::int64_t n : tokens) {
        const auto view = [&](std::size_t i) {
          return cuda::view_of(copies[i % copies.size()].data(), kDtype, shape.rows, shape.cols);
        };
        const double library = time(copies.size(), [&](std::size_t i) {
          products_.linear(x(n, shape.cols), view(i), nullptr, y(n, shape.rows));
        });
        dense_us[n] = library;
        report(shape, "dense", n, library, dense_bytes, ceiling, library, 0.0);
        if (n > cuda::kMostDenseTokens) continue;
        const double own = time(copies.size(), [&](std::size_t i) {
          cuda::linear_at_rest(products_, x(n, shape.cols), view(i), nullptr, y(n, shape.rows), false,
                               stream_);
        });
        dense_us[n] = std::min(dense_us[n], own);
        report(shape, "dense, own", n, own, dense_bytes, ceiling, dense_us[n], 0.0);
      }
    }
    for (const Storage& storage : kStorages) {
      if (std::find(storages.begin(), storages.end(), storage.name) == storages.end()) continue;
      run_storage(shape, storage, tokens, dense_us, ceiling);
    }
  }

  bool all_right() const { return all_right_; }

 private:
  static constexpr DType kDtype = DType::kBF16;

  static void check_status(cudaError_t status) { cuda::check(status); }
  static std::int64_t copies_of(std::int64_t bytes) {
    return std::max<std::int64_t>(2, ceil_div(kLeastBytes, bytes));
  }
  cuda::DeviceView x(std::int64_t tokens, std::int64_t cols) const {
    return cuda::view_of(x_.data(), kDtype, tokens, cols);
  }
  cuda::DeviceView y(std::int64_t tokens, std::int64_t rows) const {
    return cuda::view_of(y_.data(), kDtype, tokens, rows);
  }

  void run_storage(RandomShape shape, const Storage& storage, const std::vector<std::int64_t>& tokens,
                   const std::map<std::int64_t, double>& dense_us, double ceiling) {
    const bool grid = is_grid(storage.format.kind);
    const PackedTensor packed = grid
                                    ? pack(random_codes(shape, storage.group, storage.pruned), storage.format)
                                    : pack({random_weight(shape, storage.group, storage.pruned, kDtype),
                                            shape.rows, shape.cols, kDtype},
                                           storage.format);
    std::vector<cuda::DevicePacked> weights;
    std::int64_t bytes = 0;
    do {
      weights.emplace_back(memory_, std::span(&packed, 1), kDtype, stream_);
      if (storage.entries) weights.back() = weights.back().as_entries(memory_, stream_);
      bytes = static_cast<std::int64_t>(weights.back().bytes());
    } while (std::ssize(weights) < copies_of(bytes));
    const cuda::DeviceMatrix expanded(memory_, kDtype, shape.rows, shape.cols, "expanded weights");
    weights.front().expand(expanded.view().data, stream_);
    for (const std::int64_t n : tokens) {
      products_.linear(x(n, shape.cols), expanded.view(), nullptr, y(n, shape.rows));
      const std::vector<float> expected = outputs(n, shape.rows);
      const auto multiply = [&](std::size_t i) {
        weights[i % weights.size()].linear(products_, x(n, shape.cols), nullptr, y(n, shape.rows), false,
                                           {scratch_.data(), scratch_.bytes()}, stream_);
      };
      check_status(cudaMemsetAsync(y_.data(), 0xff, y_.bytes(), stream_));
      multiply(0);
      const double error = relative_error(outputs(n, shape.rows), expected);
      const double us = time(weights.size(), multiply);
      report(shape, storage.name, n, us, bytes, ceiling, dense_us.at(n), error);
      if (!(error <= kMostError)) {
        fmt::print(stderr, "{} {}x{}, {} tokens: error {}\n", storage.name, shape.rows, shape.cols, n, error);
        all_right_ = false;
      }
    }
  }

  std::vector<float> outputs(std::int64_t tokens, std::int64_t rows) {
    std::vector<std::uint16_t> bits(static_cast<std::size_t>(tokens * rows));
    check_status(cudaMemcpyAsync(bits.data(), y_.data(), bits.size() * 2, cudaMemcpyDeviceToHost, stream_));
    stream_.synchronize();
    std::vector<float> values(bits.size());
    convert_to_f32(std::as_bytes(std::span(bits)), kDtype, values);
    return values;
  }
  static constexpr double kMostError = 6e-3;  // both are rounded to BF16
  static double relative_error(const std::vector<float>& found, const std::vector<float>& expected) {
    double difference = 0.0, size = 0.0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double d = double{found[i]} - double{expected[i]};
      difference += d * d;
      size += double{expected[i]} * double{expected[i]};
    }
    return std::sqrt(difference / size);
  }

  // Microseconds of one product.
  double time(std::size_t copies, const std::function<void(std::size_t)>& multiply) {
    const std::size_t count = std::max<std::size_t>(copies, kLeastProducts);
    const auto chain = [&] {
      for (std::size_t i = 0; i < count; ++i) multiply(i);
    };
    chain();  // plans are made and kernels loaded
    stream_.synchronize();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t recorded = nullptr;
    check_status(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    chain();
    check_status(cudaStreamEndCapture(stream_, &graph));
    check_status(cudaGraphInstantiate(&recorded, graph, 0));
    const double ms = median_ms(stream_, {.warm_ups = 2, .repeats = repeats_},
                                [&] { check_status(cudaGraphLaunch(recorded, stream_)); });
    check_status(cudaGraphExecDestroy(recorded));
    check_status(cudaGraphDestroy(graph));
    return 1e3 * ms / static_cast<double>(count);
  }

  void report(RandomShape shape, std::string_view name, std::int64_t tokens, double us, std::int64_t bytes,
              double ceiling, double dense_us, double error) {
    const double rate = 1e6 * static_cast<double>(bytes) / us;
    fmt::print("{:>5}x{:<5} {:<11} {:>4} {:>9.2f} us {:>6.0f} GB/s {:>5.1f} % {:>7.3f} x  {:.1e}\n",
               shape.rows, shape.cols, name, tokens, us, 1e-9 * rate, 100.0 * rate / ceiling, dense_us / us,
               error);
    std::fflush(stdout);
  }

  cuda::DeviceMemory memory_;
  cuda::Stream stream_;
  cuda::Products products_;
  int repeats_;
  bool all_right_ = true;
  cuda::DeviceBuffer x_, y_, scratch_;
};

}  // namespace
}  // namespace swiftprune

int main(int argc, char** argv) {
  using namespace swiftprune;
  CLI::App app{"Times single products with dense and packed weights on the GPU"};
  int repeats = 11;
  std::vector<std::string> shapes = {"4096x4096", "11008x4096", "4096x11008", "12288x4096", "32000x4096"};
  std::vector<std::int64_t> tokens = {1, 4, 8, 16, 32, 64};
  std::vector<std::string> storages = {"bitmap50", "entries50", "2:4", "int4", "int4-50", "int4-2:4"};
  app.add_option("--repeats", repeats, "Chains of which the median counts")->check(CLI::Range(1, 1000));
  app.add_option("--shapes", shapes, "Outputs x inputs");
  app.add_option("--tokens", tokens, "Numbers of tokens")->check(CLI::Range(1, 4096));
  app.add_option("--storages", storages, "bitmap50, entries50, entries70, 2:4, int4, int4-50, int4-2:4");
  CLI11_PARSE(app, argc, argv);
  try {
    cuda::check(cudaSetDevice(0));
    Bench bench(repeats);
    const double ceiling = bench.read_ceiling();
    fmt::print("{}, read ceiling {:.0f} GB/s; share of it and times as fast as the faster dense product\n",
               cuda::gpu_name(0), 1e-9 * ceiling);
    for (const std::string& text : shapes) {
      RandomShape shape{};
      if (std::sscanf(text.c_str(), "%ldx%ld", &shape.rows, &shape.cols) != 2 || shape.rows < 1 ||
          shape.cols < 1) {
        fmt::print(stderr, "gpu_layers_bench: --shapes: found '{}', expected OUTPUTSxINPUTS\n", text);
        return 2;
      }
      bench.run(shape, tokens, storages, ceiling);
    }
    return bench.all_right() ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_layers_bench: {}\n", error.what());
    return 1;
  }
}
