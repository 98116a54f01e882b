#include "swiftprune/evaluation/speed.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <random>

#include "swiftprune/core/error.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/sparse/read_ceiling.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kCeilingBytes = std::int64_t{256} << 20;

double seconds_of(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t total = 0;
  std::int64_t resident = 0;
  file >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

std::vector<std::int32_t> random_ids(const Model& model, std::int64_t count) {
  std::mt19937 random(1);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int32_t& id : ids)
    id = static_cast<std::int32_t>(random() % static_cast<unsigned>(model.config().vocab_size));
  return ids;
}

class CpuSpeedTarget : public SpeedTarget {
 public:
  CpuSpeedTarget(const Backend& backend, ComputeType compute, Autotuner* tuner)
      : backend_(backend), compute_(compute), tuner_(tuner) {}
  std::unique_ptr<SequenceGenerator> load(const Model& model, std::int64_t sequences,
                                          std::int64_t capacity) override {
    return std::make_unique<Generator>(model, backend_, compute_, sequences, capacity, tuner_);
  }
  std::int64_t memory_bytes() override { return resident_bytes(); }
  double read_ceiling() override { return measure_read_ceiling(kCeilingBytes, 3); }
  double product_us(const PackedTensor& weight) override {
    const TuneResult result = (tuner_ != nullptr ? *tuner_ : own_).measure(weight, 1, compute_);
    return std::min(result.packed_us, result.dense_us);
  }

 private:
  const Backend& backend_;
  ComputeType compute_;
  Autotuner* tuner_;
  Autotuner own_{{}};  // in place of that, for product_us() alone
};

struct Times {
  std::vector<double> prefill, decode;  // seconds, a round each
};

// One round: the prompt, then the steps.
void run_round(const Model& model, SequenceGenerator& generator, std::int64_t batch,
               const SpeedOptions& options, Times& times) {
  const std::vector<std::int32_t> prompt = random_ids(model, batch * options.prompt_tokens);
  const std::vector<std::int32_t> step = random_ids(model, batch);
  generator.restart();
  times.prefill.push_back(seconds_of([&] { generator.append(prompt); }));
  times.decode.push_back(seconds_of([&] {
    for (std::int64_t t = 0; t < options.decode_tokens; ++t) generator.append(step);
  }));
}

std::vector<double> ratios(const std::vector<double>& base, const std::vector<double>& values) {
  std::vector<double> result;
  for (std::size_t r = 0; r < values.size(); ++r) result.push_back(base[r] / values[r]);
  return result;
}

}  // namespace

std::unique_ptr<SpeedTarget> make_cpu_speed_target(const Backend& backend, ComputeType compute,
                                                   Autotuner* tuner) {
  return std::make_unique<CpuSpeedTarget>(backend, compute, tuner);
}

SpeedReport measure_speed(const std::vector<const Model*>& models, SpeedTarget& target,
                          const SpeedOptions& options) {
  expect(!models.empty() && options.rounds > 0 && options.decode_tokens > 0 && options.prompt_tokens > 0,
         "measure_speed: something to measure");
  SpeedReport report;
  report.models.resize(models.size());
  std::vector<double> ceilings;
  const std::int64_t capacity = options.prompt_tokens + options.decode_tokens;
  int done = 0;
  for (std::size_t b = 0; b < options.batches.size(); ++b) {
    const std::int64_t batch = options.batches[b];
    std::vector<std::unique_ptr<SequenceGenerator>> generators;
    std::vector<Times> times(models.size());
    for (std::size_t m = 0; m < models.size(); ++m) {
      const std::int64_t before = target.memory_bytes();
      const double seconds =
          seconds_of([&] { generators.push_back(target.load(*models[m], batch, capacity)); });
      Times warm_up;
      run_round(*models[m], *generators[m], batch, options, warm_up);
      if (b == 0) {
        report.models[m].load_seconds = seconds;
        report.models[m].memory_bytes = target.memory_bytes() - before;
      }
    }
    std::vector<double> batch_ceilings;
    for (int round = 0; round < options.rounds; ++round) {
      batch_ceilings.push_back(target.read_ceiling());
      for (std::size_t m = 0; m < models.size(); ++m)
        run_round(*models[m], *generators[m], batch, options, times[m]);
      if (options.progress)
        options.progress("speed", ++done, static_cast<std::int64_t>(options.batches.size()) * options.rounds);
    }
    ceilings.insert(ceilings.end(), batch_ceilings.begin(), batch_ceilings.end());
    for (std::size_t m = 0; m < models.size(); ++m) {
      BatchSpeed speed;
      speed.batch = batch;
      const auto steps = static_cast<double>(options.decode_tokens);
      speed.prefill_tokens_per_second =
          static_cast<double>(batch * options.prompt_tokens) / median(times[m].prefill);
      speed.decode_tokens_per_second = static_cast<double>(batch) * steps / median(times[m].decode);
      speed.prefill_ratio = median(ratios(times[0].prefill, times[m].prefill));
      speed.decode_ratio = median(ratios(times[0].decode, times[m].decode));
      speed.bytes_per_step = generators[m]->bytes_per_step(options.prompt_tokens + options.decode_tokens / 2);
      std::vector<double> shares;
      for (std::size_t r = 0; r < batch_ceilings.size(); ++r) {
        shares.push_back(static_cast<double>(speed.bytes_per_step) * steps / times[m].decode[r] /
                         batch_ceilings[r]);
      }
      speed.share_of_read_ceiling = median(shares);
      report.models[m].batches.push_back(speed);
    }
  }
  report.read_ceiling_bytes_per_second = median(ceilings);
  return report;
}

}  // namespace swiftprune
