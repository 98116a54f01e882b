// Packed linear layers against dense ones, on the shapes of LLaMA-2-7B. Every round times every variant once,
// over several copies of the weight that together are larger than the cache; ratios are taken inside a round,
// so that a slow moment of the machine touches both sides.
//   sparse_bench [--threads 1 2] [--tokens 1 4 16 512] [--shapes 4096x4096 ...] [--rounds 9] [--json FILE]
#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/read_ceiling.h"

namespace {

using namespace swiftprune;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Shape {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

constexpr const char* kDenseInt4 = "int4";  // few bits are compared with it, too

// N(0, 0.02) weights without exact zeros; a share of each row, or all but n of every m, set to zero at
// random.
struct Generator {
  Shape shape;
  std::vector<std::uint16_t> dense;

  explicit Generator(Shape s) : shape(s), dense(static_cast<std::size_t>(s.rows * s.cols)) {
    std::mt19937 engine(1);
    std::normal_distribution<float> value(0.0f, 0.02f);
    std::vector<std::uint16_t> block(1 << 16);
    for (auto& bits : block) bits = static_cast<std::uint16_t>(f32_to_bf16(value(engine)) | 1u);
    for (std::uint16_t& bits : dense) bits = block[engine() & 0xffff];
  }
  std::vector<std::uint16_t> pruned(double sparsity) const {
    std::vector<std::uint16_t> bits = dense;
    std::mt19937 engine(2);
    const auto limit = static_cast<std::uint32_t>(sparsity * 4294967295.0);
    for (auto& b : bits) b = engine() < limit ? std::uint16_t{0} : b;
    return bits;
  }
  std::vector<std::uint16_t> two_of_four() const {
    std::vector<std::uint16_t> bits = dense;
    std::mt19937 engine(3);
    for (std::size_t g = 0; g < bits.size(); g += 4) {
      const std::uint32_t a = engine() % 4;
      const std::uint32_t b = (a + 1 + engine() % 3) % 4;
      bits[g + a] = bits[g + b] = 0;
    }
    return bits;
  }
};

// Codes of a grid in groups of 64, drawn around the middle; a share of them, or two of every four, at their zero
// point.
QuantizedWeight grid_weight(Shape shape, int bits, double sparsity, bool two_of_four) {
  QuantizedWeight w{{bits, 64, false}, shape.rows, shape.cols, {}, {}, {}};
  std::mt19937 engine(5);
  const auto limit = static_cast<std::uint32_t>(sparsity * 4294967295.0);
  const auto middle = static_cast<std::uint8_t>(w.grid.middle());
  w.scales.assign(static_cast<std::size_t>(shape.rows * shape.cols / 64), f32_to_f16(0.01f));
  w.codes.resize(static_cast<std::size_t>(shape.rows * shape.cols));
  std::uint32_t kept = 0;
  for (std::size_t i = 0; i < w.codes.size(); ++i) {
    const auto drawn = static_cast<std::uint32_t>(engine());
    auto code = static_cast<std::uint8_t>(engine() % static_cast<std::uint64_t>(w.grid.num_codes()));
    if (code == middle) --code;  // what is kept is not zero
    if (i % 4 == 0) kept = drawn % 4;
    const std::uint32_t other = (kept + 1 + (drawn >> 8) % 3) % 4;
    if (two_of_four && i % 4 == 0) kept = kept | other << 4;
    const bool pruned = two_of_four ? i % 4 != (kept & 15u) && i % 4 != kept >> 4 : drawn < limit;
    w.codes[i] = pruned ? middle : code;
  }
  return w;
}

class Variant {
 public:
  Variant(std::string name, const PackedTensor& packed, std::int64_t copies) : name_(std::move(name)) {
    for (std::int64_t i = 0; i < copies; ++i) {
      const std::size_t size = packed.bytes().size();
      std::shared_ptr<std::byte[]> memory(
          static_cast<std::byte*>(::operator new[](size, std::align_val_t{64})),
          [](std::byte* p) { ::operator delete[](p, std::align_val_t{64}); });
      std::memcpy(memory.get(), packed.bytes().data(), size);
      linears_.emplace_back(PackedTensor::parse({memory.get(), size}, name_, memory));
    }
  }
  const std::string& name() const { return name_; }
  std::int64_t num_bytes() const { return linears_.front().num_bytes(); }
  // Seconds of one forward.
  double time(ConstMatrixView x, MatrixView y, ComputeType compute) const {
    const auto start = Clock::now();
    for (const Linear& linear : linears_) linear.forward(x, {}, y, compute);
    return seconds_since(start) / static_cast<double>(linears_.size());
  }

 private:
  std::string name_;
  std::vector<Linear> linears_;
};

// oneDNN's product of the same size with a weight in the layout it likes best.
class OneDnn {
 public:
  OneDnn(Shape shape, std::int64_t tokens, ComputeType compute)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    const auto type =
        compute == ComputeType::kBF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    using Tag = dnnl::memory::format_tag;
    const dnnl::memory::desc x({tokens, shape.cols}, type, Tag::ab);
    const dnnl::memory::desc w({shape.cols, shape.rows}, type, Tag::any);
    const dnnl::memory::desc y({tokens, shape.rows}, dnnl::memory::data_type::f32, Tag::ab);
    const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(x, w, y), engine_);
    product_ = dnnl::matmul(plan);
    arguments_ = {{DNNL_ARG_SRC, dnnl::memory(x, engine_)},
                  {DNNL_ARG_WEIGHTS, dnnl::memory(plan.weights_desc(), engine_)},
                  {DNNL_ARG_DST, dnnl::memory(y, engine_)}};
    for (auto& [argument, memory] : arguments_) {
      std::memset(memory.get_data_handle(), 0, memory.get_desc().get_size());
    }
  }
  double time() {
    const auto start = Clock::now();
    product_.execute(stream_, arguments_);
    stream_.wait();
    return seconds_since(start);
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul product_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Options {
  std::vector<int> threads = {1, 2};
  std::vector<std::int64_t> tokens = {1, 4, 16, 512};
  std::vector<std::string> shapes = {"4096x4096", "11008x4096", "4096x11008"};
  std::vector<std::string> only;
  int rounds = 9;
  std::int64_t working_set_mb = 200;
  std::string json;
  bool one_dnn = false;
};

Shape parse_shape(const std::string& text) {
  const auto x = text.find('x');
  return {std::stoll(text.substr(0, x)), std::stoll(text.substr(x + 1))};
}

std::vector<Variant> make_variants(const Options& options, Shape shape) {
  const Generator weights(shape);
  const std::int64_t copies =
      std::max<std::int64_t>(1, (options.working_set_mb << 20) / (shape.rows * shape.cols * 2));
  std::vector<Variant> variants;
  const auto add = [&](const std::string& name, const std::vector<std::uint16_t>& bits,
                       const PackFormat& format) {
    const bool wanted = options.only.empty() || variants.empty() ||
                        std::find(options.only.begin(), options.only.end(), name) != options.only.end();
    if (wanted)
      variants.emplace_back(name, pack({bits, shape.rows, shape.cols, DType::kBF16}, format), copies);
  };
  add("dense bf16", weights.dense, {PackedKind::kDense16});
  add("dense int8", weights.dense, {PackedKind::kDenseInt8});
  const auto half = weights.pruned(0.5);
  add("bitmap 50 %", half, {PackedKind::kBitmap16});
  add("bitmap 70 %", weights.pruned(0.7), {PackedKind::kBitmap16});
  add("2:4", weights.two_of_four(), {PackedKind::kNm16, 2, 4});
  add("int8 bitmap 50 %", half, {PackedKind::kBitmapInt8});
  const auto add_grid = [&](const std::string& name, int bits, double sparsity, bool two_of_four,
                            const PackFormat& format) {
    if (!options.only.empty() && std::ranges::find(options.only, name) == options.only.end()) return;
    variants.emplace_back(name, pack(grid_weight(shape, bits, sparsity, two_of_four), format), copies);
  };
  add_grid(kDenseInt4, 4, 0.0, false, {PackedKind::kDenseGrid});
  add_grid("int4 bitmap 50 %", 4, 0.5, false, {PackedKind::kBitmapGrid});
  add_grid("int4 2:4", 4, 0.5, true, {PackedKind::kNmGrid, 2, 4});
  add_grid("int3", 3, 0.0, false, {PackedKind::kDenseGrid});
  add_grid("int3 bitmap 50 %", 3, 0.5, false, {PackedKind::kBitmapGrid});
  add_grid("int8 grid", 8, 0.0, false, {PackedKind::kDenseGrid});
  return variants;
}

void measure(const Options& options, const std::string& shape_name, const std::vector<Variant>& variants,
             int threads, std::int64_t tokens, ComputeType compute, double ceiling,
             nlohmann::ordered_json& rows) {
  const Shape shape = parse_shape(shape_name);
  Matrix x(tokens, shape.cols), y(tokens, shape.rows);
  std::mt19937 engine(4);
  std::normal_distribution<float> value;
  for (float& v : x.values()) v = value(engine);
  std::vector<std::vector<double>> times(variants.size());
  std::vector<double> one_dnn;
  std::unique_ptr<OneDnn> reference;
  if (options.one_dnn) reference = std::make_unique<OneDnn>(shape, tokens, compute);
  for (int round = 0; round <= options.rounds; ++round) {  // the first warms up
    for (std::size_t v = 0; v < variants.size(); ++v) {
      const double seconds = variants[v].time(x.view(), y.view(), compute);
      if (round > 0) times[v].push_back(seconds);
    }
    if (reference) {
      const double seconds = reference->time();
      if (round > 0) one_dnn.push_back(seconds);
    }
  }
  const auto report = [&](const std::string& name, const std::vector<double>& t, double bytes) {
    const auto ratio_to = [&t](const std::vector<double>& base) {
      std::vector<double> ratios;
      for (std::size_t r = 0; r < t.size(); ++r) ratios.push_back(base[r] / t[r]);
      return median(ratios);
    };
    const auto int4 = std::ranges::find(variants, kDenseInt4, &Variant::name);
    const double to_int4 =
        int4 == variants.end() ? 0.0 : ratio_to(times[static_cast<std::size_t>(int4 - variants.begin())]);
    const double best = *std::min_element(t.begin(), t.end());
    const double best_ratio = *std::min_element(times[0].begin(), times[0].end()) / best;
    const double rate = bytes / median(t);
    const double tflops = 2.0 * static_cast<double>(tokens * shape.rows * shape.cols) / median(t) / 1e12;
    fmt::print(
        "| {} | {} | {} {} | {} | {:.3f} | {:.3f} | {:.1f} | {:.0f} % | {:.3f} | {:.2f} | {:.2f} | {:.2f} "
        "|\n",
        shape_name, threads, tokens, compute == ComputeType::kBF16 ? "bf16" : "f32", name, 1e3 * median(t),
        1e3 * best, rate / 1e9, 100.0 * rate / ceiling, tflops, ratio_to(times[0]), best_ratio, to_int4);
    rows.push_back({{"shape", shape_name},
                    {"threads", threads},
                    {"tokens", tokens},
                    {"compute", compute == ComputeType::kBF16 ? "bf16" : "f32"},
                    {"variant", name},
                    {"median_ms", 1e3 * median(t)},
                    {"best_ms", 1e3 * best},
                    {"gb_per_s", rate / 1e9},
                    {"share_of_read_ceiling", rate / ceiling},
                    {"tflops", tflops},
                    {"ratio_to_dense_bf16", ratio_to(times[0])},
                    {"ratio_to_dense_int4", to_int4},
                    {"ratio_of_bests", best_ratio}});
  };
  for (std::size_t v = 0; v < variants.size(); ++v) {
    report(variants[v].name(), times[v], static_cast<double>(variants[v].num_bytes()));
  }
  if (reference) {
    const double size = compute == ComputeType::kBF16 ? 2.0 : 4.0;
    report("oneDNN dense", one_dnn, size * static_cast<double>(shape.rows * shape.cols));
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Packed linear layers against dense ones"};
  app.add_option("--threads", options.threads);
  app.add_option("--tokens", options.tokens);
  app.add_option("--shapes", options.shapes);
  app.add_option("--only", options.only, "Variants beside dense bf16");
  app.add_option("--rounds", options.rounds);
  app.add_option("--working-set", options.working_set_mb, "MB of dense weights, more than the cache");
  app.add_option("--json", options.json, "Also write the figures to this file");
  app.add_flag("--onednn", options.one_dnn,
               "Measure oneDNN's dense product beside (one weight, in the cache if small)");
  CLI11_PARSE(app, argc, argv);

  nlohmann::ordered_json document = {{"cpu", cpu_model_name()}, {"isa", isa_name()}};
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  fmt::print("{}, {}\n", cpu_model_name(), isa_name());
  std::vector<double> ceilings;
  for (const int threads : options.threads) {
    set_num_threads(threads);
    ceilings.push_back(measure_read_ceiling(std::int64_t{256} << 20, 9));
    fmt::print("read ceiling, {} thread(s): {:.1f} GB/s\n", threads, ceilings.back() / 1e9);
    document["read_ceiling_gb_per_s"][std::to_string(threads)] = ceilings.back() / 1e9;
  }
  fmt::print(
      "\n| shape | threads | tokens | weight | median ms | best ms | GB/s | of ceiling | TFLOP/s | x dense | "
      "x dense "
      "(bests) | x int4 |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const std::string& shape : options.shapes) {
    const std::vector<Variant> variants = make_variants(options, parse_shape(shape));
    for (std::size_t i = 0; i < options.threads.size(); ++i) {
      set_num_threads(options.threads[i]);
      for (const std::int64_t tokens : options.tokens) {
        for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
          if (compute == ComputeType::kBF16 && tokens <= 4) continue;
          measure(options, shape, variants, options.threads[i], tokens, compute, ceilings[i], rows);
        }
      }
    }
  }
  document["rows"] = rows;
  if (!options.json.empty()) std::ofstream(options.json) << document.dump(2) << "\n";
  return 0;
}
