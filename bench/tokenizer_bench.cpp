// Throughput of a tokenizer on one long text, one thread: first call (cold caches) and the median of warm
// calls. usage: tokenizer_bench TEXT_FILE TOKENIZER...   (a folder or a tokenizer file); one JSON line each.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "swiftprune/text/corpus.h"
#include "swiftprune/text/tokenizer.h"

namespace {

double seconds_of(const swiftprune::Tokenizer& tokenizer, const std::string& text, std::size_t* tokens) {
  const auto start = std::chrono::steady_clock::now();
  *tokens = tokenizer.encode(text, false).size();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) try {
  constexpr int kRuns = 15;
  if (argc < 3) {
    fmt::print(stderr, "usage: tokenizer_bench TEXT_FILE TOKENIZER...\n");
    return 2;
  }
  const std::string text = swiftprune::read_corpus(argv[1]).documents.at(0);
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  for (int i = 2; i < argc; ++i) {
    const auto load = std::chrono::steady_clock::now();
    const auto tokenizer = swiftprune::Tokenizer::open(argv[i]);
    const double load_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - load).count();
    std::size_t tokens = 0;
    const double cold = seconds_of(*tokenizer, text, &tokens);
    std::vector<double> warm;
    for (int run = 0; run < kRuns; ++run) warm.push_back(seconds_of(*tokenizer, text, &tokens));
    std::nth_element(warm.begin(), warm.begin() + kRuns / 2, warm.end());
    const nlohmann::ordered_json line = {{"tokenizer", argv[i]},
                                         {"bytes", text.size()},
                                         {"tokens", tokens},
                                         {"load_ms", 1e3 * load_seconds},
                                         {"cold_mb_per_s", megabytes / cold},
                                         {"warm_mb_per_s", megabytes / warm[kRuns / 2]}};
    fmt::print("{}\n", line.dump());
  }
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "tokenizer_bench: {}\n", error.what());
  return 1;
}
