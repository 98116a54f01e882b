// Does the cost of pruning grow linearly with rows and tokens? Medians of each stage over a range of sizes up
// to the largest linear of LLaMA-2-7B, with the exponent of the best power law, as a table and a plot:
//   scaling_bench [--threads 2] [--rounds 5] [--svg FILE]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "swiftprune/backend/backend.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/refinement/admm.h"
#include "swiftprune/selection/selector.h"

namespace {

using namespace swiftprune;

struct Series {
  std::string name;
  std::string unit;  // of x
  std::vector<double> x;
  std::vector<double> seconds;

  // Of seconds = c·x^p, least squares in logarithms.
  double exponent() const {
    double sx = 0, sy = 0, sxx = 0, sxy = 0;
    const auto n = static_cast<double>(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double a = std::log(x[i]);
      const double b = std::log(seconds[i]);
      sx += a;
      sy += b;
      sxx += a * a;
      sxy += a * b;
    }
    return (n * sxy - sx * sy) / (n * sxx - sx * sx);
  }
};

Matrix random_matrix(std::int64_t rows, std::int64_t cols, unsigned seed) {
  Matrix m(rows, cols);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> block(1 << 16);
  for (float& value : block) value = normal(random);
  for (std::int64_t i = 0; i < m.numel(); ++i) m.data()[i] = block[random() & 0xffff];
  return m;
}

// make(x) prepares size x and returns what is timed.
Series measure(const std::string& name, const std::string& unit, const std::vector<std::int64_t>& sizes,
               int rounds, const std::function<std::function<void()>(std::int64_t)>& make) {
  Series series{name, unit, {}, {}};
  for (const std::int64_t size : sizes) {
    const std::function<void()> body = make(size);
    std::vector<double> times;
    for (int round = -1; round < rounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      body();
      if (round >= 0)
        times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    series.x.push_back(static_cast<double>(size));
    series.seconds.push_back(times[times.size() / 2]);
  }
  return series;
}

std::string svg(const std::vector<Series>& all) {
  constexpr double kWidth = 720, kHeight = 420, kLeft = 64, kBottom = 48, kRight = 250, kTop = 16;
  double x0 = 1e300, x1 = 0, y0 = 1e300, y1 = 0;
  for (const Series& s : all) {
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      x0 = std::min(x0, s.x[i]);
      x1 = std::max(x1, s.x[i]);
      y0 = std::min(y0, s.seconds[i]);
      y1 = std::max(y1, s.seconds[i]);
    }
  }
  const double lx0 = std::log10(x0) - 0.05, lx1 = std::log10(x1) + 0.05;
  const double ly0 = std::floor(std::log10(y0)), ly1 = std::ceil(std::log10(y1));
  const auto px = [&](double x) {
    return kLeft + (std::log10(x) - lx0) / (lx1 - lx0) * (kWidth - kLeft - kRight);
  };
  const auto py = [&](double y) {
    return kHeight - kBottom - (std::log10(y) - ly0) / (ly1 - ly0) * (kHeight - kBottom - kTop);
  };
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n"
      "<title>Seconds of each stage over rows or tokens, both axes logarithmic: parallel straight lines of "
      "slope 1</title>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      kWidth, kHeight);
  for (double decade = ly0; decade <= ly1; ++decade) {
    const double y = py(std::pow(10, decade));
    out += fmt::format(
        "<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>"
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g} s</text>\n",
        kLeft, y, kWidth - kRight, y, kLeft - 6, y + 4, std::pow(10, decade));
  }
  for (double x = x0; x <= x1 * 1.001; x *= 2) {
    out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:g}</text>\n", px(x),
                       kHeight - kBottom + 18, x);
  }
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">rows or tokens</text>\n",
                     (kLeft + kWidth - kRight) / 2, kHeight - 10);
  const char* colours[] = {"#1b6ca8", "#c2571a", "#2e7d32", "#7b3fa0", "#a8325e", "#555555"};
  for (std::size_t s = 0; s < all.size(); ++s) {
    std::string points;
    for (std::size_t i = 0; i < all[s].x.size(); ++i) {
      points += fmt::format("{:.1f},{:.1f} ", px(all[s].x[i]), py(all[s].seconds[i]));
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", px(all[s].x[i]),
                         py(all[s].seconds[i]), colours[s % 6]);
    }
    const double y = kTop + 14 + 22 * static_cast<double>(s);
    out += fmt::format(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n"
        "<text x=\"{}\" y=\"{}\" fill=\"{}\">{}, x^{:.2f}</text>\n",
        points, colours[s % 6], kWidth - kRight + 12, y, colours[s % 6], all[s].name, all[s].exponent());
  }
  return out + "</svg>\n";
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 2, rounds = 5;
  std::string file;
  CLI::App app("Time of the stages of pruning over rows and tokens");
  app.add_option("--threads", threads);
  app.add_option("--rounds", rounds);
  app.add_option("--svg", file, "write the plot here");
  CLI11_PARSE(app, argc, argv);
  set_num_threads(threads);
  const auto backend = make_cpu_backend();
  const std::vector<std::int64_t> sizes = {256, 512, 1024, 2048, 4096};
  std::vector<Series> all;
  for (const char* pattern : {"row", "2:4"}) {
    const auto selector = make_selector(kDefaultSelector);
    all.push_back(measure(
        fmt::format("select {} of 11008 inputs", pattern), "rows", sizes, rounds, [&](std::int64_t rows) {
          auto weight = std::make_shared<Matrix>(random_matrix(rows, 11008, 1));
          PruneTarget target;
          target.pattern = parse_pattern(pattern);
          target.sparsity = 0.5;
          return [=, &selector] { selector->select(plain_scores(std::as_const(*weight).view()), target); };
        }));
  }
  all.push_back(measure("energy of 11008 inputs", "tokens", sizes, rounds, [&](std::int64_t tokens) {
    auto x = std::make_shared<Matrix>(random_matrix(tokens, 11008, 2));
    return [&backend, x] {
      std::vector<double> energy(11008, 0.0);
      backend->add_energy(x->view(), energy);
    };
  }));
  all.push_back(
      measure("Gram of 4096 inputs", "tokens", sizes, std::min(rounds, 3), [&](std::int64_t tokens) {
        auto x = std::make_shared<Matrix>(random_matrix(tokens, 4096, 3));
        auto gram = std::make_shared<Matrix>(Matrix::zeros(4096, 4096));
        return [&backend, x, gram] { backend->add_gram(x->view(), gram->view()); };
      }));
  Matrix gram = Matrix::zeros(1536, 1536);
  backend->add_gram(random_matrix(4096, 1536, 4).view(), gram.view());
  Backend::symmetrize(gram.view());
  const std::vector<double> energy(1536, 4096.0);
  const LayerStats stats{.num_tokens = 4096, .energy = energy, .gram = &gram};
  const auto refiner = make_admm(AdmmOptions{});
  const auto prepared = refiner->prepare(stats, *backend, "bench");
  all.push_back(measure("admm of 1536 inputs", "rows", sizes, std::min(rounds, 3), [&](std::int64_t rows) {
    auto weight = std::make_shared<Matrix>(random_matrix(rows, 1536, 5));
    return [&, weight] {
      RefineTask task;
      task.weight = weight->view();
      task.target.sparsity = 0.5;
      refiner->refine(task, *prepared, *backend);
    };
  }));
  fmt::print("{}, {}, {} threads; medians\n\n| stage | x |", cpu_model_name(), isa_name(), num_threads());
  for (const std::int64_t size : sizes) fmt::print(" {} |", size);
  fmt::print(" exponent |\n|---|---|{}---|\n", [&] {
    std::string columns;
    for (std::size_t i = 0; i < sizes.size(); ++i) columns += "---|";
    return columns;
  }());
  for (const Series& series : all) {
    fmt::print("| {} | {} |", series.name, series.unit);
    for (const double seconds : series.seconds) fmt::print(" {:.2f} ms |", 1e3 * seconds);
    fmt::print(" {:.2f} |\n", series.exponent());
  }
  if (!file.empty()) std::ofstream(file) << svg(all);
  return 0;
}
