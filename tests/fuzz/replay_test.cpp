// The functions of fuzz/ without a fuzzer: whatever the bytes are, nothing but their own errors comes of them. At length,
// with coverage and sanitizers: make fuzz.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "seeds.h"

#define TARGET(name) extern "C" int name(const std::uint8_t* data, std::size_t size);
#include "fuzz_targets.inc"
#undef TARGET

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using Target = int (*)(const std::uint8_t*, std::size_t);

#define TARGET(name) {#name, name},
const std::map<std::string, Target> kTargets = {
#include "fuzz_targets.inc"
};
#undef TARGET

const std::map<std::string, std::vector<std::string>>& all_seeds() {
  static const auto made = fuzz::seeds(SWIFTPRUNE_TEST_DATA);
  return made;
}

// What a fuzzer does to an input, without looking at what it leads to.
class Mutator {
 public:
  Mutator(const std::string& target, const std::vector<std::string>& seeds) : seeds_(seeds) {
    std::ifstream file(fs::path(SWIFTPRUNE_TEST_DATA) / "../../fuzz/dictionaries" / (target + ".dict"));
    for (std::string line; std::getline(file, line);) words_.push_back(unquoted(line));
  }
  bool has_words() const { return !words_.empty(); }
  std::string changed(std::string input) {
    for (std::size_t times = below(4) + 1; times > 0; --times) change(input);
    return input;
  }

 private:
  static std::string unquoted(const std::string& line) {
    std::string word;
    for (std::size_t i = 1; i + 1 < line.size(); ++i) {
      if (line[i] != '\\') {
        word += line[i];
      } else if (line[++i] == 'x') {
        word += static_cast<char>(std::stoi(line.substr(i + 1, 2), nullptr, 16));
        i += 2;
      } else {
        word += line[i];
      }
    }
    return word;
  }
  std::size_t below(std::size_t end) {
    return end == 0 ? 0 : std::uniform_int_distribution<std::size_t>(0, end - 1)(engine_);
  }
  void change(std::string& input) {
    const std::size_t place = below(input.size() + 1), length = below(16) + 1;
    switch (below(7)) {
      case 0:
        if (place < input.size()) input[place] = static_cast<char>(engine_());
        break;
      case 1:
        if (place < input.size()) input[place] = static_cast<char>(input[place] ^ (1 << below(8)));
        break;
      case 2:
        input.erase(std::min(place, input.size()), length);
        break;
      case 3:
        input.insert(place, input.substr(below(input.size() + 1), length));
        break;
      case 4:
        input.insert(place, words_[below(words_.size())]);
        break;
      case 5: {  // ends as another one does
        const std::string& other = seeds_[below(seeds_.size())];
        input = input.substr(0, place) + other.substr(below(other.size() + 1));
        break;
      }
      default: {  // a number of 4 or 8 bytes as large as they go
        constexpr unsigned char kLarge[] = {0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF};
        input.replace(std::min(place, input.size()), 4, std::string(kLarge, kLarge + 4 + 4 * below(2)));
      }
    }
  }

  const std::vector<std::string>& seeds_;
  std::vector<std::string> words_;
  std::mt19937 engine_{1};
};

class Fuzz : public ::testing::TestWithParam<std::string> {
 protected:
  // A copy of its own size, so that a sanitizer sees every byte behind it.
  void take(const std::string& input) const {
    if (const char* last = std::getenv("SWIFTPRUNE_FUZZ_LAST"))
      std::ofstream(last, std::ios::binary) << input;
    const std::vector<std::uint8_t> bytes(input.begin(), input.end());
    const int result = kTargets.at(GetParam())(bytes.data(), bytes.size());
    EXPECT_TRUE(result == 0 || result == -1);  // -1: an input that is not worth keeping
  }
};

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const auto& [name, target] : kTargets) result.push_back(name);
  return result;
}
INSTANTIATE_TEST_SUITE_P(Targets, Fuzz, ::testing::ValuesIn(names()),
                         [](const auto& test_info) { return test_info.param; });

// SWIFTPRUNE_FUZZ_SECONDS=N: seeds are changed for so long; SWIFTPRUNE_FUZZ_LAST=FILE holds the input that a crash is of.
TEST_P(Fuzz, SeedsWholeCutAndChanged) {
  ASSERT_TRUE(all_seeds().contains(GetParam())) << "a target without seeds";
  const std::vector<std::string>& seeds = all_seeds().at(GetParam());
  ASSERT_FALSE(seeds.empty());
  Mutator mutator(GetParam(), seeds);
  ASSERT_TRUE(mutator.has_words()) << "a target without a dictionary";
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    take(seeds[i]);
    take(seeds[i].substr(0, seeds[i].size() * (i + 1) / (seeds.size() + 1)));
  }
  const char* asked = std::getenv("SWIFTPRUNE_FUZZ_SECONDS");
  const std::chrono::seconds seconds(asked != nullptr ? std::stoi(asked) : 0);
  constexpr int kRounds = 4;
  const auto start = std::chrono::steady_clock::now();
  std::size_t taken = 0;
  for (int round = 0; round < kRounds || std::chrono::steady_clock::now() - start < seconds; ++round) {
    for (const std::string& seed : seeds) take(mutator.changed(seed));
    taken += seeds.size();
  }
  if (asked != nullptr) std::printf("%s: %zu changed seeds\n", GetParam().c_str(), taken);
}

TEST_P(Fuzz, WhatWasFoundOnce) {
  const fs::path folder = fs::path(SWIFTPRUNE_TEST_DATA) / "../../fuzz/findings" / GetParam();
  if (!fs::exists(folder)) return;
  for (const auto& entry : fs::directory_iterator(folder)) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream file(entry.path(), std::ios::binary);
    take({std::istreambuf_iterator<char>(file), {}});
  }
}

}  // namespace
}  // namespace swiftprune
