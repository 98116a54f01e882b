// Time of choosing and zeroing the lowest-scored weights of a matrix in place (score |w|·√e fused), against
// memcpy of the same bytes and against sorting. Rounds visit all methods in turn, so that noise of the
// machine meets all of them; figures are medians. One table a (dtype, threads), and one document with --json.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/selection/exact_selector.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {
namespace {

struct Options {
  std::int64_t rows = 4096;
  std::int64_t cols = 11008;
  int rounds = 9;
  double sparsity = 0.5;
  std::vector<int> threads{1, 2};
  bool scaling = false;
  std::string json;
};

using Bytes = std::vector<std::byte>;

// Rows of different scale; columns with log-normal energies and a few outliers, as activations have.
struct Data {
  Data(std::int64_t r, std::int64_t c, DType type) : rows(r), cols(c), dtype(type) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    scores.column.resize(static_cast<std::size_t>(cols));
    for (float& factor : scores.column) {
      factor = std::exp(0.25f * normal(generator)) * (generator() % 500 == 0 ? 10.0f : 1.0f);
    }
    source.resize(static_cast<std::size_t>(rows * cols * size_of(dtype)));
    parallel_for(rows, 64, [&](std::int64_t first, std::int64_t last) {
      std::mt19937 row_generator(static_cast<unsigned>(first) + 7);
      std::normal_distribution<float> row_normal;
      std::vector<float> row(static_cast<std::size_t>(cols));
      for (std::int64_t i = first; i < last; ++i) {
        const float scale = 0.01f + 0.02f * static_cast<float>(row_generator() % 1000) / 1000.0f;
        for (float& value : row) value = scale * row_normal(row_generator);
        const auto bytes = static_cast<std::size_t>(cols * size_of(dtype));
        convert_from_f32(row, dtype, std::span(source).subspan(static_cast<std::size_t>(i) * bytes, bytes));
      }
    });
    target = source;
  }
  MutableWeightView view() { return {target.data(), dtype, rows, cols, cols}; }
  void restore() { copy(); }
  // memcpy of everything, a part a thread
  void copy() {
    const auto size = static_cast<std::int64_t>(source.size());
    const std::int64_t part = (size + num_threads() - 1) / num_threads();
    parallel_for(size, part, [&](std::int64_t first, std::int64_t last) {
      std::memcpy(target.data() + first, source.data() + first, static_cast<std::size_t>(last - first));
    });
  }

  std::int64_t rows;
  std::int64_t cols;
  DType dtype;
  Scores scores;
  Bytes source;
  Bytes target;
};

// What a program without a selection engine does: scores, a library algorithm on a copy, one comparing pass.
void prune_with_library(Data& data, double sparsity, bool sort) {
  const RowKernels& kernels = row_kernels({});
  const ScoreView view = data.scores.view(data.view());
  ScoredRows rows(kernels, view);
  const auto count = static_cast<std::int64_t>(sparsity * static_cast<double>(data.cols));
  parallel_for(data.rows, 64, [&](std::int64_t first, std::int64_t last) {
    Matrix keys(1, rows.buffer_size());
    std::vector<float> copy(static_cast<std::size_t>(data.cols));
    std::vector<std::uint64_t> words(static_cast<std::size_t>(rows.buffer_size() / 64));
    for (std::int64_t r = first; r < last; ++r) {
      const KeyRow row = rows.load(r, keys.data());
      std::copy_n(row.keys, row.n, copy.begin());
      if (sort) {
        std::sort(copy.begin(), copy.end());
      } else {
        std::nth_element(copy.begin(), copy.begin() + count, copy.end());
      }
      const float value = copy[static_cast<std::size_t>(count)];
      const std::int64_t below =
          std::count_if(copy.begin(), copy.begin() + count, [&](float k) { return k < value; });
      keep_above(kernels, row, {value, count - below}, words.data());
      zero_row(kernels, data.view(), r, words.data());
    }
  });
}

struct Method {
  std::string name;
  bool slow = false;      // measured in the first three rounds only
  std::string mask_of{};  // methods of one group give the same mask
  std::function<void()> run{};
  std::vector<double> seconds{};
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double time_of(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::pair<std::string, Isa>> isas() {
  std::vector<std::pair<std::string, Isa>> list;
  if (cpu_features().avx512) list.emplace_back("AVX-512", Isa::kAvx512);
  if (cpu_features().avx2) list.emplace_back("AVX2", Isa::kAvx2);
  if (list.empty()) list.emplace_back("baseline", Isa::kBaseline);
  return list;
}

std::vector<Method> methods(Data& data, double sparsity, bool with_slow) {
  std::vector<Method> list;
  list.push_back({.name = "memcpy", .run = [&] { data.copy(); }});
  if (with_slow) {
    list.push_back({.name = "std::sort", .slow = true, .mask_of = "row", .run = [&data, sparsity] {
                      prune_with_library(data, sparsity, true);
                    }});
    list.push_back({.name = "std::nth_element", .slow = true, .mask_of = "row", .run = [&data, sparsity] {
                      prune_with_library(data, sparsity, false);
                    }});
  }
  for (const auto& [label, isa] : isas()) {
    for (const SelectKind engine : {SelectKind::kRadix, SelectKind::kEwmaWindow}) {
      const std::shared_ptr<Selector> selector = make_selector(engine, {.isa = isa});
      list.push_back({.name = fmt::format("{}, {}", name_of(engine), label),
                      .mask_of = "row",
                      .run = [&data, selector, sparsity] {
                        selector->prune(data.view(), data.scores, {.sparsity = sparsity});
                      }});
    }
    const std::shared_ptr<Selector> selector = make_selector(kDefaultSelector, {.isa = isa});
    for (const char* pattern : {"2:4", "4:8"}) {
      if (data.cols % 8 != 0) continue;
      list.push_back({.name = fmt::format("{}, {}", pattern, label),
                      .mask_of = pattern,
                      .run = [&data, selector, pattern] {
                        selector->prune(data.view(), data.scores, {.pattern = parse_pattern(pattern)});
                      }});
    }
  }
  return list;
}

nlohmann::ordered_json measure(Data& data, const Options& options, bool with_slow) {
  std::vector<Method> list = methods(data, options.sparsity, with_slow);
  std::vector<std::pair<std::string, Bytes>> expected;  // one result a group of methods
  for (int round = 0; round < options.rounds; ++round) {
    for (Method& method : list) {
      if (method.slow && round >= 3) continue;
      data.restore();
      method.seconds.push_back(time_of(method.run));
      if (round > 0 || method.mask_of.empty()) continue;
      const auto group = std::find_if(expected.begin(), expected.end(),
                                      [&](const auto& e) { return e.first == method.mask_of; });
      if (group == expected.end()) {
        expected.emplace_back(method.mask_of, data.target);
      } else if (group->second != data.target) {
        fail(ErrorKind::kFailure, "{}: another mask than the other methods", method.name);
      }
    }
  }
  const double weights = static_cast<double>(data.rows * data.cols);
  const double copy = median(list.front().seconds);
  const double best_copy = *std::min_element(list.front().seconds.begin(), list.front().seconds.end());
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  double nth_element = 0.0;
  for (const Method& method : list) {
    const double seconds = median(method.seconds);
    if (method.name == "std::nth_element") nth_element = seconds;
    const double best = *std::min_element(method.seconds.begin(), method.seconds.end());
    rows.push_back({{"method", method.name},
                    {"ms", seconds * 1e3},
                    {"best_ms", best * 1e3},
                    {"best_times_memcpy", best / best_copy},
                    {"ns_per_weight", seconds / weights * 1e9},
                    {"times_memcpy", seconds / copy}});
    if (nth_element > 0.0) rows.back()["nth_element_times_slower"] = nth_element / seconds;
  }
  return rows;
}

void print_table(const Data& data, int threads, const nlohmann::ordered_json& rows) {
  fmt::print(
      "\n{} x {} {}, {} thread{}\n\n| method | ms | ns/weight | x memcpy | nth_element / it "
      "|\n|---|---|---|---|---|\n",
      data.rows, data.cols, name_of(data.dtype), threads, threads == 1 ? "" : "s");
  for (const auto& row : rows) {
    fmt::print("| {} | {:.2f} | {:.3f} | {:.2f} | {} | {:.2f} | {:.2f} |\n", row["method"].get<std::string>(),
               row["ms"].get<double>(), row["ns_per_weight"].get<double>(), row["times_memcpy"].get<double>(),
               row.contains("nth_element_times_slower")
                   ? fmt::format("{:.1f}", row["nth_element_times_slower"].get<double>())
                   : "",
               row["best_ms"].get<double>(), row["best_times_memcpy"].get<double>());
  }
  std::fflush(stdout);
}

void run(const Options& options) {
  nlohmann::ordered_json document{{"bench", "selection"},
                                  {"cpu", cpu_model_name()},
                                  {"sparsity", options.sparsity},
                                  {"rounds", options.rounds},
                                  {"results", nlohmann::ordered_json::array()}};
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes{{options.rows, options.cols}};
  if (options.scaling) {
    shapes = {{256, 11008},  {512, 11008}, {1024, 11008}, {2048, 11008},
              {4096, 11008}, {4096, 576},  {4096, 1536},  {4096, 4096}};
  }
  fmt::print("{}; medians of {} rounds\n", document["cpu"].get<std::string>(), options.rounds);
  for (const auto& [rows, cols] : shapes) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      Data data(rows, cols, dtype);
      for (int threads : options.threads) {
        set_num_threads(threads);
        const auto results = measure(data, options, !options.scaling);
        print_table(data, threads, results);
        document["results"].push_back({{"rows", rows},
                                       {"cols", cols},
                                       {"dtype", name_of(dtype)},
                                       {"threads", threads},
                                       {"methods", results}});
      }
    }
  }
  if (!options.json.empty()) std::ofstream(options.json) << document.dump(2) << "\n";
}

}  // namespace
}  // namespace swiftprune

int main(int argc, char** argv) {
  swiftprune::Options options;
  CLI::App app("Times the selection of weights against memcpy and sorting");
  app.add_option("--rows", options.rows)->check(CLI::PositiveNumber);
  app.add_option("--cols", options.cols)->check(CLI::PositiveNumber);
  app.add_option("--rounds", options.rounds)->check(CLI::PositiveNumber);
  app.add_option("--sparsity", options.sparsity)->check(CLI::Range(0.0, 0.99));
  app.add_option("--threads", options.threads, "one table each")->delimiter(',');
  app.add_flag("--scaling", options.scaling, "a series of sizes instead of one, without the library's sorts");
  app.add_option("--json", options.json, "also write the figures to this file");
  CLI11_PARSE(app, argc, argv);
  try {
    swiftprune::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
