// Products with pruned weights on the GPU beside the dense bf16 ones, over the linears of LLaMA-2-7B (query,
// key and value are one product, gate and up another), in one run: medians of whole passes over several
// layers, so that no weight comes from the cache.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "gpu_timing.h"
#include "gpu_weights.h"
#include "swiftprune/cuda/sparse/packed_kernels.h"
#include "swiftprune/cuda/sparse/packed_weight.h"
#include "swiftprune/cuda/sparse/structured.h"
#include "swiftprune/device/device.h"

namespace swiftprune {
namespace {

constexpr RandomShape kShapes[] = {{12288, 4096}, {4096, 4096}, {22016, 4096}, {4096, 11008}};
constexpr std::int64_t kLayers = 32;  // of the model, for the figures a token

struct Case {
  const char* name;
  std::int64_t group;
  double pruned;
  PackFormat format;
};
const Case kCases[] = {{"50 % per row, bitmap", 0, 0.5, {.kind = PackedKind::kBitmap16}},
                       {"70 % per row, bitmap", 0, 0.7, {.kind = PackedKind::kBitmap16}},
                       {"50 % per row, bitmap int8", 0, 0.5, {.kind = PackedKind::kBitmapInt8}},
                       {"50 % per row, bitmap fp8", 0, 0.5, {.kind = PackedKind::kBitmapFp8}},
                       {"int4, groups of 64", 0, 0.0, {.kind = PackedKind::kDenseGrid}},
                       {"2:4", 4, 0.5, {.kind = PackedKind::kNm16, .group_n = 2, .group_m = 4}}};

class Bench {
 public:
  Bench(int repeats, std::int64_t layers, DType dtype, int pause_ms)
      : memory_(0),
        products_(memory_, stream_),
        repeats_(repeats),
        layers_(layers),
        dtype_(dtype),
        pause_ms_(pause_ms) {
    const std::int64_t tokens = kTokens;
    x_ = cuda::DeviceMatrix(memory_, dtype, tokens, 11008, "inputs");
    y_ = cuda::DeviceMatrix(memory_, dtype, tokens, 22016, "outputs");
    const auto random = random_weight({tokens, 11008}, 0, 0.0, dtype);
    cuda::check(
        cudaMemcpyAsync(x_.view().data, random.data(), random.size() * 2, cudaMemcpyHostToDevice, stream_));
    stream_.synchronize();
    std::int64_t most = 0;
    for (const RandomShape& shape : kShapes) most = std::max(most, shape.rows * shape.cols);
    scratch_ = cuda::DeviceBuffer(memory_, static_cast<std::uint64_t>(2 * most), "expanded weights");
  }

  void run(const std::vector<std::int64_t>& all_tokens, std::string_view only) {
    load_dense();
    fmt::print("{:<28} {:>6} {:>12} {:>14} {:>10} {:>8}\n", name_of(dtype_), "tokens", "ms, 32 layers",
               "GB/s of weights", "dense, ms", "faster");
    for (const std::int64_t tokens : all_tokens) {
      dense_ms_[tokens] =
          time([&] { dense_pass(tokens); }) * static_cast<double>(kLayers) / static_cast<double>(layers_);
      report("dense", tokens, dense_ms_[tokens], dense_bytes());
      if (tokens > cuda::kMaxDecodeTokens) continue;
      const double own_ms = time([&] { dense_pass(tokens, true); });
      report("dense, own kernel", tokens,
             own_ms * static_cast<double>(kLayers) / static_cast<double>(layers_), dense_bytes());
    }
    for (const Case& item : kCases) {
      if (std::string_view(item.name).starts_with(only)) run_case(item);
    }
  }

 private:
  static constexpr std::int64_t kTokens = 2048;

  static std::int64_t dense_bytes() {
    std::int64_t bytes = 0;
    for (const RandomShape& shape : kShapes) bytes += 2 * shape.rows * shape.cols;
    return bytes;
  }

  void load_dense() {
    for (const RandomShape& shape : kShapes) {
      const auto bits = random_weight(shape, 0, 0.0, dtype_);
      for (std::int64_t layer = 0; layer < layers_; ++layer) {
        dense_.emplace_back(memory_, dtype_, shape.rows, shape.cols, "weights");
        cuda::check(cudaMemcpyAsync(dense_.back().view().data, bits.data(), bits.size() * 2,
                                    cudaMemcpyHostToDevice, stream_));
      }
      stream_.synchronize();
    }
  }

  cuda::DeviceView x(std::int64_t tokens, std::int64_t cols) const {
    return cuda::view_of(x_.view().data, dtype_, tokens, cols);
  }
  cuda::DeviceView y(std::int64_t tokens, std::int64_t rows) const {
    return cuda::view_of(y_.view().data, dtype_, tokens, rows);
  }
  std::size_t at(std::size_t shape, std::int64_t layer) const {
    return shape * static_cast<std::size_t>(layers_) + static_cast<std::size_t>(layer);
  }

  void each(const std::function<void(std::size_t, const RandomShape&)>& body) const {
    for (std::int64_t layer = 0; layer < layers_; ++layer) {
      for (std::size_t s = 0; s < std::size(kShapes); ++s) body(at(s, layer), kShapes[s]);
    }
  }

  void dense_pass(std::int64_t tokens, bool own_kernel = false) {
    each([&](std::size_t i, const RandomShape& shape) {
      const cuda::DeviceView from = x(tokens, shape.cols);
      const cuda::DeviceView to = y(tokens, shape.rows);
      if (own_kernel) {
        cuda::linear_at_rest(products_, from, dense_[i].view(), nullptr, to, false, stream_);
      } else {
        products_.linear(from, dense_[i].view(), nullptr, to);
      }
    });
  }

  void run_case(const Case& item) {
    std::vector<cuda::DevicePacked> weights;
    std::vector<cuda::StructuredProducts::Weight> compressed;
    std::optional<cuda::StructuredProducts> structured;
    const bool with_library =
        item.group == 4 && dtype_ == DType::kBF16 && cuda::StructuredProducts::why_not().empty();
    if (with_library) structured.emplace(memory_, stream_);
    std::int64_t bytes = 0;
    for (const RandomShape& shape : kShapes) {
      const auto bits = random_weight(shape, item.group, item.pruned, dtype_);
      const PackedTensor packed = item.format.kind == PackedKind::kDenseGrid
                                      ? pack(random_codes(shape, 0, 0.0), item.format)
                                      : pack({bits, shape.rows, shape.cols, dtype_}, item.format);
      for (std::int64_t layer = 0; layer < layers_; ++layer) {
        weights.emplace_back(memory_, std::span(&packed, 1), dtype_, stream_);
        if (!with_library) continue;
        weights.back().expand(scratch_.data(), stream_);
        compressed.push_back(
            structured->compress(cuda::view_of(scratch_.data(), dtype_, shape.rows, shape.cols)));
      }
      bytes += static_cast<std::int64_t>(weights.back().bytes());
    }
    for (const auto& [tokens, unused] : dense_ms_) {
      const double ms = time([&] {
        each([&](std::size_t i, const RandomShape& shape) {
          weights[i].linear(products_, x(tokens, shape.cols), nullptr, y(tokens, shape.rows), false,
                            {scratch_.data(), scratch_.bytes()}, stream_);
        });
      });
      report(item.name, tokens, ms * static_cast<double>(kLayers) / static_cast<double>(layers_), bytes);
      if (!with_library || tokens % 8 != 0) continue;
      std::vector<cuda::StructuredProducts::Algorithm> algorithms(weights.size());
      const auto start = std::chrono::steady_clock::now();
      for (std::size_t s = 0; s < std::size(kShapes); ++s) {
        const RandomShape& shape = kShapes[s];
        const auto found =
            structured->search(compressed[at(s, 0)], x(tokens, shape.cols), y(tokens, shape.rows));
        for (std::int64_t layer = 0; layer < layers_; ++layer) algorithms[at(s, layer)] = found;
      }
      fmt::print("searched {} shapes in {:.2f} s\n", std::size(kShapes),
                 std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      const double library_ms = time([&] {
        each([&](std::size_t i, const RandomShape& shape) {
          expect(
              structured->linear(compressed[i], x(tokens, shape.cols), y(tokens, shape.rows), algorithms[i]),
              "the algorithm that was found");
        });
      });
      report("2:4, cuSPARSELt", tokens,
             library_ms * static_cast<double>(kLayers) / static_cast<double>(layers_), bytes);
    }
    if (item.group == 4 && !with_library) fmt::print("{}\n", cuda::StructuredProducts::why_not());
  }

  void report(std::string_view name, std::int64_t tokens, double ms, std::int64_t bytes) {
    fmt::print("{:<28} {:>6} {:>12.3f} {:>14.0f} {:>10.3f} {:>8.3f}\n", name, tokens, ms,
               1e-6 * static_cast<double>(bytes * kLayers) / ms, dense_ms_[tokens], dense_ms_[tokens] / ms);
    std::fflush(stdout);
  }

  double time(const std::function<void()>& body) {
    return median_ms(stream_, {.warm_ups = 3, .repeats = repeats_, .pause_ms = pause_ms_}, body);
  }

  cuda::DeviceMemory memory_;
  cuda::Stream stream_;
  cuda::Products products_;
  int repeats_;
  std::int64_t layers_;
  DType dtype_;
  int pause_ms_;
  cuda::DeviceMatrix x_, y_;
  cuda::DeviceBuffer scratch_;
  std::vector<cuda::DeviceMatrix> dense_;  // [shape][layer]
  std::map<std::int64_t, double> dense_ms_;
};

}  // namespace
}  // namespace swiftprune

int main(int argc, char** argv) {
  using namespace swiftprune;
  CLI::App app{"Times products with pruned weights at the shapes of LLaMA-2-7B on the GPU"};
  int repeats = 21;
  std::int64_t layers = 8;
  std::string dtype = "bf16";
  app.add_option("--repeats", repeats, "Passes of which the median counts")->check(CLI::Range(1, 1000));
  app.add_option("--layers", layers, "Layers in memory")->check(CLI::Range(1, 32));
  app.add_option("--dtype", dtype, "bf16 or f16")->check(CLI::IsMember({"bf16", "f16"}));
  std::vector<std::int64_t> tokens = {1, 2, 4, 8, 16, 512, 2048};
  std::string only;
  int pause_ms = 0;
  app.add_option("--tokens", tokens, "Numbers of tokens, at most 2048")->check(CLI::Range(1, 2048));
  app.add_option("--only", only, "Cases whose name begins so");
  app.add_option("--pause-ms", pause_ms, "Rest before each pass, so that the power limit is not reached")
      ->check(CLI::Range(0, 10000));
  CLI11_PARSE(app, argc, argv);
  try {
    const auto device = open_device("cuda");
    cuda::check(cudaSetDevice(device->index()));
    fmt::print("{}\n", device->name());
    Bench(repeats, layers, dtype == "f16" ? DType::kF16 : DType::kBF16, pause_ms).run(tokens, only);
  } catch (const Error& error) {
    fmt::print(stderr, "gpu_sparse_bench: {}\n", error.what());
    return static_cast<int>(error.kind());
  }
}
