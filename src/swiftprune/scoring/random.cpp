// A uniform number in (0, 1] for each weight, from the seed and the weight's place alone (splitmix64).
#include "swiftprune/scoring/random.h"

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

std::uint64_t splitmix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

Scores random(WeightView weight, const ScoreInput& input) {
  std::uint64_t stream = random_stream(random_seed(input.parameter), input.tensor);
  Scores scores;
  scores.plain = Matrix(weight.rows, weight.cols);
  for (float& score : scores.plain.values()) {
    stream += 0x9e3779b97f4a7c15u;
    score = static_cast<float>((splitmix64(stream) >> 40) + 1) * 0x1p-24f;
  }
  return scores;
}

}  // namespace

std::uint64_t random_stream(std::uint64_t seed, std::string_view tensor) {
  std::uint64_t stream = seed;
  for (char c : tensor) stream = splitmix64(stream ^ static_cast<unsigned char>(c));
  return stream;
}

constinit const ScoreKind kRandomScore{
    .name = "random",
    .summary = "uniform random numbers",
    .source = "baseline",
    .parameter = {.meaning = "seed",
                  .range = {.min = 0.0, .max = 9007199254740992.0, .whole = true}},  // what a double holds
    .from_weights = random};

}  // namespace swiftprune
