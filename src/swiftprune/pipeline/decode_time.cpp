#include "swiftprune/pipeline/decode_time.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/generator.h"

namespace swiftprune {
namespace {

constexpr int kPromptTokens = 16;
constexpr int kTimedSteps = 48;
constexpr int kWarmUp = 4;
static_assert(kPromptTokens + kWarmUp + kTimedSteps == kDecodePositions);

double median_ms(const std::function<void()>& step) {
  std::vector<double> ms;
  for (int i = 0; i < kWarmUp + kTimedSteps; ++i) {
    check_interrupt();
    const auto start = std::chrono::steady_clock::now();
    step();
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    if (i >= kWarmUp) ms.push_back(time.count());
  }
  std::nth_element(ms.begin(), ms.begin() + kTimedSteps / 2, ms.end());
  return ms[kTimedSteps / 2];
}

}  // namespace

DecodeTime measure_decode(SequenceGenerator& generator, const std::function<void()>& head) {
  DecodeTime time;
  generator.append(std::vector<std::int32_t>(kPromptTokens, 0));
  time.total_ms = median_ms([&] { generator.append(std::vector<std::int32_t>{0}); });
  time.head_ms = median_ms(head);
  return time;
}

DecodeTime measure_decode(const Model& model, const Backend& backend, ComputeType compute) {
  Generator generator(model, backend, compute, 1, kDecodePositions);
  const ModelHead head = model.load_head(backend, compute, WeightUse::kCompact);
  const Matrix hidden = Matrix::zeros(1, model.config().row_size());
  Matrix logits(1, model.config().vocab_size);
  return measure_decode(generator, [&] { head.logits(backend, hidden.view(), logits.view()); });
}

double ratio_for(const DecodeTime& dense, double target_ms) {
  const double blocks = dense.total_ms - dense.head_ms;
  if (!(target_ms > dense.head_ms && target_ms < dense.total_ms)) {
    bad_usage(
        "--target-ms: found {}, expected between {:.2f} (the output projection alone) and {:.2f} (the dense "
        "model, measured)",
        target_ms, dense.head_ms, dense.total_ms);
  }
  return 1.0 - (target_ms - dense.head_ms) / blocks;
}

}  // namespace swiftprune
