#include "swiftprune/serving/chunk_pace.h"

#include <algorithm>

namespace swiftprune {
namespace {

// Of what is new, so that one slow step among many changes little.
constexpr double kWeight = 0.2;
constexpr double kNearly = 0.75;  // of the answers: a step of so many tells enough

void follow(double& mean, double value) { mean = mean == 0.0 ? value : mean + kWeight * (value - mean); }

}  // namespace

void ChunkPace::add_step(std::int64_t answers, double seconds) {
  if (std::ssize(steps_) <= answers) steps_.resize(static_cast<std::size_t>(answers) + 1);
  Step& step = steps_[static_cast<std::size_t>(answers)];
  if (passes_ - step.pass > kFresh) step.seconds = 0.0;
  follow(step.seconds, seconds);
  step.pass = ++passes_;
}

void ChunkPace::add_chunk(std::int64_t tokens, double seconds) {
  ++passes_;
  follow(token_, seconds / static_cast<double>(tokens));
}

void ChunkPace::add_both(std::int64_t answers, std::int64_t tokens, double seconds) {
  const double step = step_of(answers);
  ++passes_;
  // A tenth at least: a step that was slow by chance must not make tokens free.
  if (step > 0.0) follow(beside_, std::max(seconds - step, 0.1 * seconds) / static_cast<double>(tokens));
}

double ChunkPace::step_of(std::int64_t answers) const {
  const auto least = static_cast<std::int64_t>(kNearly * static_cast<double>(answers) + 0.999);
  for (std::int64_t n = std::min(answers, std::ssize(steps_) - 1); n >= least; --n) {
    const Step& step = steps_[static_cast<std::size_t>(n)];
    if (step.seconds > 0.0 && passes_ - step.pass <= kFresh) return step.seconds;
  }
  return 0.0;
}

std::int64_t ChunkPace::next(std::int64_t answers, std::int64_t prompts) const {
  if (answers == 0) return most_;
  const double step = step_of(answers);
  const double token = beside_ > 0.0 ? beside_ : token_;
  const std::int64_t least = std::max<std::int64_t>(1, most_ / kLeastPart);
  if (step == 0.0 || token == 0.0) return least;
  const double share = std::max(1.0, static_cast<double>(prompts) / static_cast<double>(answers));
  const double tokens = std::min(kStepsAChunk * share * step / token, static_cast<double>(most_));
  return std::clamp(static_cast<std::int64_t>(tokens) / kMultiple * kMultiple, least, most_);
}

}  // namespace swiftprune
