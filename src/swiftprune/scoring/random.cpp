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

class RandomScorer final : public Scorer {
 public:
  explicit RandomScorer(std::uint64_t seed) : seed_(seed) {}
  std::string name() const override { return fmt::format("random({})", seed_); }
  StatNeeds needs() const override { return {}; }

 private:
  Scores do_score(WeightView weight, const LayerStats&, const Backend&,
                  std::string_view tensor) const override {
    std::uint64_t stream = random_stream(seed_, tensor);
    Scores scores;
    scores.plain = Matrix(weight.rows, weight.cols);
    for (float& score : scores.plain.values()) {
      stream += 0x9e3779b97f4a7c15u;
      score = static_cast<float>((splitmix64(stream) >> 40) + 1) * 0x1p-24f;
    }
    return scores;
  }

  std::uint64_t seed_;
};

}  // namespace

std::uint64_t random_stream(std::uint64_t seed, std::string_view tensor) {
  std::uint64_t stream = seed;
  for (char c : tensor) stream = splitmix64(stream ^ static_cast<unsigned char>(c));
  return stream;
}

std::unique_ptr<Scorer> make_random_scorer(double parameter) {
  return std::make_unique<RandomScorer>(static_cast<std::uint64_t>(parameter));
}

}  // namespace swiftprune
