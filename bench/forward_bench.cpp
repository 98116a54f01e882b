// Tokens a second of the dense forward of a whole model, from token ids to logits, and the share of the rate
// at which oneDNN multiplies large matrices on the same threads. Every round times the ceiling and the
// forward once, so that a slow moment of the machine touches both; shares are taken inside a round.
//   forward_bench MODEL [--threads 2] [--seqlen 2048] [--windows 2] [--rounds 5] [--compute f32 bf16] [--json
//   FILE]
//
// Counted: matrix products only, 2 flops a multiply-add. A window of T tokens costs
//   2·T·(V·hidden + Σ_blocks Σ_linears O·I) + 4·H·D·Σ_blocks Σ_t min(t, attention window),  t = 1..T
// (q·k and weights·v over the keys that a query sees). Norms, rope, softmax and activations count nothing.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/forward.h"

namespace {

using namespace swiftprune;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Passes everything on and adds up the time of each kind of work.
class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(const Backend& inner) : inner_(inner) {}
  std::string_view name() const override { return inner_.name(); }
  std::map<std::string, double>& seconds() const { return seconds_; }

 private:
  template <class Call>
  auto timed(const char* part, Call&& call) const {
    struct Stop {
      double& total;
      Clock::time_point start = Clock::now();
      ~Stop() { total += seconds_since(start); }
    } stop{seconds_[part]};
    return call();
  }

  std::unique_ptr<PackedWeight> do_pack(ConstMatrixView weight, ComputeType compute) const override {
    return timed("pack", [&] { return inner_.pack(weight, compute); });
  }
  void do_linear(ConstMatrixView x, const PackedWeight& weight, std::span<const float> bias,
                 MatrixView y) const override {
    timed("linear", [&] { inner_.linear(x, weight, bias, y); });
  }
  void do_matmul(ConstMatrixView a, ConstMatrixView b, bool b_transposed, float alpha, float beta,
                 MatrixView c) const override {
    b_transposed ? inner_.matmul_transposed(a, b, alpha, beta, c) : inner_.matmul(a, b, alpha, beta, c);
  }
  void do_add_gram(ConstMatrixView x, MatrixView gram, ComputeType compute) const override {
    inner_.add_gram(x, gram, compute);
  }
  void do_add_cross(ConstMatrixView a, ConstMatrixView b, MatrixView c, ComputeType compute) const override {
    inner_.add_cross(a, b, c, compute);
  }
  std::unique_ptr<MomentOperand> do_moment_operand(ConstMatrixView x, ComputeType compute) const override {
    return inner_.moment_operand(x, compute);
  }
  std::int64_t do_moment_rows(std::int64_t n, ComputeType compute) const override {
    return inner_.moment_rows(n, compute);
  }
  void do_add_gram_rows(const MomentOperand& x, MatrixView gram, std::int64_t first,
                        std::int64_t count) const override {
    inner_.add_gram_rows(x, gram, first, count);
  }
  void do_add_cross_rows(const MomentOperand& a, const MomentOperand& b, MatrixView c, std::int64_t first,
                         std::int64_t count) const override {
    inner_.add_cross_rows(a, b, c, first, count);
  }
  std::int64_t do_product_rows(std::int64_t rows, std::int64_t outputs, ComputeType compute) const override {
    return inner_.product_rows(rows, outputs, compute);
  }
  bool do_invert_spd(MatrixView a) const override { return inner_.invert_spd(a); }
  void do_rms_norm(ConstMatrixView x, std::span<const float> gain, float offset, float eps,
                   MatrixView y) const override {
    timed("norm", [&] { inner_.rms_norm(x, gain, offset, eps, y); });
  }
  void do_layer_norm(ConstMatrixView x, std::span<const float> gain, std::span<const float> bias, float eps,
                     MatrixView y) const override {
    timed("norm", [&] { inner_.layer_norm(x, gain, bias, eps, y); });
  }
  void do_rope(MatrixView x, const RopeTable& table, std::int64_t head_size,
               std::int64_t first_position) const override {
    timed("rope", [&] { inner_.rope(x, table, head_size, first_position); });
  }
  void do_attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& params,
                    MatrixView out) const override {
    timed("attention", [&] { inner_.attention(q, k, v, params, out); });
  }
  void do_causal_convolution(ConstMatrixView x, ConstMatrixView taps, std::span<const float> bias,
                             ConstMatrixView past, MatrixView y) const override {
    Matrix kept(past.rows, past.cols);
    for (std::int64_t i = 0; i < past.rows; ++i) std::copy_n(past.row(i), past.cols, kept.row(i));
    timed("recurrence", [&] { inner_.causal_convolution(x, taps, bias, kept.view(), y); });
  }
  void do_recurrence(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, ConstMatrixView decay,
                     ConstMatrixView step, const RecurrenceParams& params, MatrixView state,
                     MatrixView out) const override {
    timed("recurrence", [&] { inner_.recurrence(q, k, v, decay, step, params, state, out); });
  }
  void do_activate(Activation activation, MatrixView x) const override {
    timed("activation", [&] { inner_.activate(activation, x); });
  }
  void do_gated_activate(Activation activation, MatrixView gate, ConstMatrixView up) const override {
    timed("activation", [&] { inner_.gated_activate(activation, gate, up); });
  }
  void do_softcap(float cap, MatrixView x) const override {
    timed("activation", [&] { inner_.softcap(cap, x); });
  }
  void do_add(ConstMatrixView x, MatrixView y) const override {
    timed("add", [&] { inner_.add(x, y); });
  }
  void do_add_energy(ConstMatrixView x, std::span<double> energy) const override {
    inner_.add_energy(x, energy);
  }
  void do_target_log_probs(ConstMatrixView logits, std::span<const std::int32_t> targets,
                           std::span<double> log_probs, std::span<std::int32_t> best) const override {
    inner_.target_log_probs(logits, targets, log_probs, best);
  }

  const Backend& inner_;
  mutable std::map<std::string, double> seconds_;
};

// One product [2048, 4096] x [4096, 4096] by oneDNN on all threads, the weight in the layout that it likes
// best.
class Ceiling {
 public:
  explicit Ceiling(ComputeType compute) {
    using dnnl::memory;
    const auto type = compute == ComputeType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc x({kRows, kSize}, type, memory::format_tag::ab);
    const memory::desc any({kSize, kSize}, type, memory::format_tag::any);
    const memory::desc y({kRows, kSize}, memory::data_type::f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(x, any, y), engine_);
    product_ = dnnl::matmul(plan);
    arguments_ = {{DNNL_ARG_SRC, filled(x)},
                  {DNNL_ARG_WEIGHTS, filled(plan.weights_desc())},
                  {DNNL_ARG_DST, filled(y)}};
  }
  double flops_per_second() {
    const auto start = Clock::now();
    product_.execute(stream_, arguments_);
    stream_.wait();
    return 2.0 * kRows * kSize * kSize / seconds_since(start);
  }

 private:
  static constexpr std::int64_t kRows = 2048;
  static constexpr std::int64_t kSize = 4096;
  // Small numbers of any layout: 0x3c00 and 0x3c003c00 are both about 0.0078.
  dnnl::memory filled(const dnnl::memory::desc& desc) {
    dnnl::memory memory(desc, engine_);
    std::fill_n(static_cast<std::uint16_t*>(memory.get_data_handle()), desc.get_size() / 2,
                std::uint16_t{0x3c00});
    return memory;
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul product_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

double flops_of_window(const ModelConfig& m, std::int64_t seqlen) {
  double weights = static_cast<double>(m.vocab_size * m.hidden_size);
  double pairs = 0.0;
  for (const BlockConfig& block : m.blocks) {
    for (const LinearTensors& linear : linears_of(block))
      weights += static_cast<double>(linear.outputs * linear.inputs);
    for (std::int64_t t = 1; t <= seqlen; ++t) {
      pairs += static_cast<double>(block.attention_window > 0 ? std::min(t, block.attention_window) : t);
    }
  }
  return 2.0 * static_cast<double>(seqlen) * weights +
         4.0 * static_cast<double>(m.num_heads * m.head_size) * pairs;
}

struct Options {
  std::string model;
  int threads = 2;
  std::int64_t seqlen = 2048;
  std::int64_t windows = 2;
  int rounds = 5;
  std::vector<std::string> compute = {"f32", "bf16"};
  std::string json;
};

nlohmann::json measure(const Model& model, const TokenWindows& windows, const Options& options,
                       const std::string& compute_name) {
  ForwardOptions forward;
  forward.compute = compute_name == "bf16" ? ComputeType::kBF16 : ComputeType::kF32;
  const auto inner = make_cpu_backend();
  const TimedBackend backend(*inner);
  Ceiling ceiling(forward.compute);
  const double flops = flops_of_window(model.config(), options.seqlen) * static_cast<double>(options.windows);
  const auto tokens = static_cast<double>(options.windows * options.seqlen);
  std::vector<double> rates, ceilings, shares;
  std::map<std::string, std::vector<double>> parts;
  for (int round = -1; round < options.rounds; ++round) {  // the first is a warm-up
    ceiling.flops_per_second();
    const double before = ceiling.flops_per_second();
    backend.seconds().clear();
    const auto start = Clock::now();
    for_each_logits(model, backend, windows, forward, [](auto...) {});
    const double seconds = seconds_since(start);
    const double after = ceiling.flops_per_second();
    if (round < 0) continue;
    rates.push_back(tokens / seconds);
    ceilings.push_back(std::max(before, after));
    shares.push_back(flops / seconds / ceilings.back());
    double rest = seconds;
    for (const auto& [part, part_seconds] : backend.seconds()) {
      parts[part].push_back(part_seconds / seconds);
      rest -= part_seconds;
    }
    parts["rest"].push_back(rest / seconds);
  }
  nlohmann::json shares_of_time;
  for (const auto& [part, values] : parts) shares_of_time[part] = median(values);
  fmt::print(
      "{:5} {:8.1f} tokens/s (best {:.1f}), {:.1f} GFLOP/s, ceiling {:.1f} GFLOP/s, share {:.3f} (best "
      "{:.3f})\n",
      compute_name, median(rates), std::ranges::max(rates), median(rates) * flops / tokens / 1e9,
      median(ceilings) / 1e9, median(shares), std::ranges::max(shares));
  for (const auto& [part, values] : parts)
    fmt::print("      {:10} {:5.1f} %\n", part, 100.0 * median(values));
  return {{"compute", compute_name},
          {"tokens_per_second", median(rates)},
          {"flops_per_token", flops / tokens},
          {"ceiling_flops_per_second", median(ceilings)},
          {"share_of_ceiling", median(shares)},
          {"share_of_time", shares_of_time}};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Tokens a second of the dense forward, and its share of the rate of large matrix products");
  app.add_option("model", options.model, "model folder")->required();
  app.add_option("--threads", options.threads);
  app.add_option("--seqlen", options.seqlen);
  app.add_option("--windows", options.windows);
  app.add_option("--rounds", options.rounds);
  app.add_option("--compute", options.compute, "f32, bf16")->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--json", options.json, "write the results here");
  CLI11_PARSE(app, argc, argv);
  try {
    set_num_threads(options.threads);
    const auto model = Model::open(options.model);
    model->check_length(options.seqlen, "--seqlen");
    std::mt19937 random(1);
    TokenWindows windows{options.seqlen, {}};
    for (std::int64_t i = 0; i < options.windows * options.seqlen; ++i)
      windows.ids.push_back(
          static_cast<std::int32_t>(random() % static_cast<unsigned>(model->config().vocab_size)));
    fmt::print("{}, {}, {} threads; {} windows of {}\n", cpu_model_name(), isa_name(), options.threads,
               options.windows, options.seqlen);
    nlohmann::json results = nlohmann::json::array();
    for (const std::string& compute : options.compute)
      results.push_back(measure(*model, windows, options, compute));
    if (!options.json.empty()) std::ofstream(options.json) << results.dump(1) << "\n";
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
