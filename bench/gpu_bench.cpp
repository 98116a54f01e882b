// The GPU's selection, statistics and forward at the shapes of LLaMA-2-7B, each beside the device's own copy
// or read rate in the same run: gpu_bench; the forward with gpu_bench --model FOLDER
// (tools/make_random_model).
#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "gpu_timing.h"
#include "swiftprune/cuda/forward/attention_kernels.h"
#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/forward/streaming.h"
#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"
#include "swiftprune/device/device.h"

namespace swiftprune {
namespace {

struct Shape {
  std::int64_t rows, cols;
};
constexpr Shape kBlock[] = {{4096, 4096},  {4096, 4096},  {4096, 4096}, {4096, 4096},
                            {11008, 4096}, {11008, 4096}, {4096, 11008}};
constexpr std::int64_t kLayers = 32;

class Bench {
 public:
  explicit Bench(int repeats) : memory_(0), repeats_(repeats) {}

  double time(const std::function<void()>& body) { return median_ms(stream_, {.repeats = repeats_}, body); }

  void selection() {
    std::int64_t numel = 0;
    for (const Shape& shape : kBlock) numel += shape.rows * shape.cols;
    numel *= kLayers;
    const auto bytes = static_cast<std::uint64_t>(2 * numel);
    const cuda::DeviceBuffer in(memory_, bytes, "weights");
    const cuda::DeviceBuffer out(memory_, bytes, "weights");
    const cuda::DeviceBuffer column(memory_, 11008 * 4, "scores");
    const cuda::DeviceBuffer counters(memory_, sizeof(cuda::PruneCounters), "counters");
    fill_normal(in, numel);
    std::vector<float> factors(11008);
    for (std::size_t j = 0; j < factors.size(); ++j)
      factors[j] = 0.5f + static_cast<float>(j * 7919 % 1000) / 1000.0f;
    cuda::check(
        cudaMemcpyAsync(column.data(), factors.data(), column.bytes(), cudaMemcpyHostToDevice, stream_));
    cuda::check(cudaMemsetAsync(counters.data(), 0, counters.bytes(), stream_));
    const double copy = time([&] {
      cuda::check(cudaMemcpyAsync(out.data(), in.data(), bytes, cudaMemcpyDeviceToDevice, stream_));
    });
    cuda::Lanes lanes;
    const auto all = [&](bool groups, bool scored) {
      std::int64_t first = 0;
      lanes.fork(stream_);
      for (std::int64_t layer = 0; layer < kLayers; ++layer) {
        for (const Shape& shape : kBlock) {
          cuda::PruneRowsArgs args;
          args.in = in.data() + 2 * first;
          args.out = out.data() + 2 * first;
          args.dtype = DType::kBF16;
          args.rows = shape.rows;
          args.cols = shape.cols;
          if (scored) args.column = column.as<float>();
          args.counters = counters.as<cuda::PruneCounters>();
          if (groups) {
            cuda::prune_groups(args, 2, 4, lanes.next());
          } else {
            cuda::prune_rows(args, shape.cols / 2, nullptr, lanes.next());
          }
          first += shape.rows * shape.cols;
        }
      }
      lanes.join(stream_);
    };
    const auto report = [&](std::string_view name, double ms) {
      fmt::print("{:<34} {:8.2f} ms  {:6.0f} GB/s  {:5.1f} % of the copy rate\n", name, ms,
                 2e-6 * static_cast<double>(bytes) / ms, 100.0 * copy / ms);
      std::fflush(stdout);
    };
    fmt::print("selection, 224 bf16 matrices of LLaMA-2-7B ({:.2f} GB read and written)\n",
               1e-9 * static_cast<double>(bytes));
    report("device copy", copy);
    report("2:4, wanda", time([&] { all(true, true); }));
    report("50 % per row, wanda", time([&] { all(false, true); }));
    report("2:4, magnitude", time([&] { all(true, false); }));
    report("50 % per row, magnitude", time([&] { all(false, false); }));
  }

  void statistics() {
    constexpr std::int64_t kRows = 65536;
    constexpr std::int64_t kCols = 11008;
    const cuda::DeviceBuffer x(memory_, static_cast<std::uint64_t>(2 * kRows * kCols), "activations");
    fill_normal(x, kRows * kCols);
    const cuda::DeviceBuffer energy(memory_, kCols * 8, "sums");
    const cuda::DeviceBuffer peak(memory_, kCols * 4, "sums");
    const cuda::DeviceBuffer scratch(
        memory_, static_cast<std::uint64_t>(cuda::statistics_scratch(kRows, kCols)), "sums");
    const cuda::DeviceBuffer copy(memory_, x.bytes(), "copy");
    const double copy_ms = time([&] {
      cuda::check(cudaMemcpyAsync(copy.data(), x.data(), x.bytes(), cudaMemcpyDeviceToDevice, stream_));
    });
    const double rate = 2e-6 * static_cast<double>(x.bytes()) / copy_ms;
    fmt::print("one-pass statistics of [{}, {}] bf16 activations\n", kRows, kCols);
    for (const bool with_peak : {false, true}) {
      cuda::StatisticsArgs args;
      args.x = x.data();
      args.rows = kRows;
      args.cols = kCols;
      args.energy = energy.as<double>();
      if (with_peak) args.peak = peak.as<float>();
      args.scratch = scratch.data();
      const double ms = time([&] { cuda::add_statistics(args, stream_); });
      const double read = 1e-6 * static_cast<double>(x.bytes()) / ms;
      fmt::print("{:<34} {:8.2f} ms  {:6.0f} GB/s  {:5.1f} % of the copy's bytes a second\n",
                 with_peak ? "energy and largest" : "energy", ms, read, 100.0 * read / rate);
    }
  }

  void attention() {
    constexpr std::int64_t kWindows = 2;
    constexpr std::int64_t kSeqlen = 2048;
    constexpr std::int64_t kHeads = 32;
    constexpr std::int64_t kHeadSize = 128;
    constexpr std::int64_t kWidth = kHeads * kHeadSize;
    const cuda::DeviceBuffer qkv(memory_, static_cast<std::uint64_t>(2 * kWindows * kSeqlen * 3 * kWidth),
                                 "heads");
    const cuda::DeviceBuffer out(memory_, static_cast<std::uint64_t>(2 * kWindows * kSeqlen * kWidth),
                                 "heads");
    fill_normal(qkv, kWindows * kSeqlen * 3 * kWidth);
    cuda::AttentionArgs args;
    args.q = qkv.data();
    args.k = qkv.data() + 2 * kWidth;
    args.v = qkv.data() + 4 * kWidth;
    args.out = out.data();
    args.rows = kWindows * kSeqlen;
    args.sequence_length = kSeqlen;
    args.row_stride = 3 * kWidth;
    args.head_stride = kHeadSize;
    args.num_heads = args.num_kv_heads = kHeads;
    args.head_size = kHeadSize;
    args.scale = 0.088f;
    const double flops = 2.0 * static_cast<double>(kWindows * kSeqlen * kSeqlen * kWidth);
    fmt::print("causal attention, {} windows of {} tokens, {} heads of {}, bf16\n", kWindows, kSeqlen, kHeads,
               kHeadSize);
    for (const auto& [name, kernel] :
         {std::pair{"chosen for the device", &cuda::attention}, {"portable", &cuda::attention_portable}}) {
      const double ms = time([&, run = kernel] { run(args, stream_); });
      fmt::print("{:<34} {:8.3f} ms  {:6.1f} TFLOP/s\n", name, ms, 1e-9 * flops / ms);
    }
  }

  void forward(const std::string& folder, std::int64_t num_windows) {
    const auto model = Model::open(folder);
    const ModelConfig& config = model->config();
    constexpr std::int64_t kSeqlen = 2048;
    cuda::Products products(memory_, stream_);
    cuda::BlockWeights block(memory_, *model, DType::kBF16);
    cuda::BlockLoader loader(*model, 0);
    loader.start(0, block);
    loader.finish();
    const std::int64_t rows = std::min<std::int64_t>(2, num_windows) * kSeqlen;
    cuda::BlockForward forward(memory_, products, *model, rows, kSeqlen, DType::kBF16, stream_);
    const cuda::DeviceMatrix hidden(memory_, DType::kF32, rows, config.hidden_size, "hidden states");
    std::vector<float> values(static_cast<std::size_t>(rows * config.hidden_size));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(i * 7919 % 2003) / 1000.0f - 1.0f;
    const auto reset = [&] {
      cuda::check(cudaMemcpyAsync(hidden.view().data, values.data(), values.size() * 4,
                                  cudaMemcpyHostToDevice, stream_));
    };
    reset();
    double weights = 0.0;
    for (const auto& weight : block.layout().weights)
      weights += static_cast<double>(weight.rows * weight.cols);
    const auto tokens = static_cast<double>(rows);
    const double flops = 2.0 * weights * tokens +
                         2.0 * tokens * kSeqlen * static_cast<double>(config.num_heads * config.head_size);
    const std::int64_t passes = std::max<std::int64_t>(1, num_windows * kSeqlen / rows);
    const double ms = time([&] {
      for (std::int64_t i = 0; i < passes; ++i) forward.run(block, hidden.view());
    });
    fmt::print("forward of one block, {} windows of {} tokens, {} at a time\n", num_windows, kSeqlen,
               rows / kSeqlen);
    fmt::print("{:<34} {:8.3f} ms  {:6.1f} TFLOP/s\n", "block", ms,
               1e-9 * flops * static_cast<double>(passes) / ms);
    part(
        "norm", [&] { forward.input_of(block, LinearInput::kAttention, hidden.view()); }, passes);
    const cuda::DeviceView x = forward.input_of(block, LinearInput::kAttention, hidden.view());
    part(
        "query, key, value and attention", [&] { forward.attention(block, x, hidden.view()); }, passes);
    const cuda::DeviceView mixed = forward.attention(block, x, hidden.view());
    part(
        "attention's output",
        [&] { forward.project_and_add(block, LinearInput::kAttentionOutput, mixed, hidden.view()); }, passes);
    part(
        "gate, up and activation", [&] { forward.mlp(block, x); }, passes);
    const cuda::DeviceView inner = forward.mlp(block, x);
    part(
        "down", [&] { forward.project_and_add(block, LinearInput::kMlpOutput, inner, hidden.view()); },
        passes);
  }

 private:
  void part(std::string_view name, const std::function<void()>& body, std::int64_t passes) {
    const double ms = time([&] {
      for (std::int64_t i = 0; i < passes; ++i) body();
    });
    fmt::print("  {:<32} {:8.3f} ms\n", name, ms);
    std::fflush(stdout);
  }

  // Sums of uniform numbers, by a multiplicative generator: near enough to normal for timing.
  void fill_normal(const cuda::DeviceBuffer& buffer, std::int64_t numel) {
    constexpr std::int64_t kChunk = std::int64_t{1} << 24;
    std::vector<std::uint16_t> host(static_cast<std::size_t>(kChunk));
    std::uint64_t state = 88172645463325252ULL;
    for (std::uint16_t& value : host) {
      float sum = 0.0f;
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      for (int shift = 0; shift < 64; shift += 16)
        sum += static_cast<float>((state >> shift) & 0xffff) / 65536.0f - 0.5f;
      value = f32_to_bf16(0.02f * sum);
    }
    // Chunks begin at different places, so that no two matrices are alike.
    for (std::int64_t first = 0; first < numel; first += kChunk) {
      const std::int64_t count = std::min(kChunk, numel - first);
      cuda::check(cudaMemcpyAsync(buffer.data() + 2 * first, host.data(), static_cast<std::size_t>(2 * count),
                                  cudaMemcpyHostToDevice, stream_));
      stream_.synchronize();
      std::rotate(host.begin(), host.begin() + 4099, host.end());
    }
  }

  cuda::DeviceMemory memory_;
  cuda::Stream stream_;
  int repeats_;
};

}  // namespace
}  // namespace swiftprune

int main(int argc, char** argv) {
  using namespace swiftprune;
  CLI::App app{"Times the GPU's kernels at the shapes of LLaMA-2-7B"};
  std::string model;
  int repeats = 11;
  std::int64_t windows = 16;
  app.add_option("--model", model, "Model folder: times the forward of its first block too");
  app.add_option("--windows", windows, "Windows of the forward")->check(CLI::Range(1, 1 << 16));
  app.add_option("--repeats", repeats, "Runs of which the median counts")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  try {
    const auto device = open_device("cuda");
    cuda::check(cudaSetDevice(device->index()));
    fmt::print("{}\n", device->name());
    Bench(repeats).selection();
    Bench(repeats).statistics();
    Bench(repeats).attention();
    if (!model.empty()) Bench(repeats).forward(model, windows);
  } catch (const Error& error) {
    fmt::print(stderr, "gpu_bench: {}\n", error.what());
    return static_cast<int>(error.kind());
  }
}
