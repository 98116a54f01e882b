#include "swiftprune/tune/decode_times.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr int kSteps = 20;  // shares of zeros that are measured: twentieths
constexpr std::int64_t kTimedPrompt = 64, kTimedTokens = 64;
constexpr int kRounds = 5;                                       // of models side by side
constexpr double kLeastGain = 0.25, kMostGain = 2.0;             // what else was measured is noise
constexpr std::uint16_t kHalfBits = 0x2400, kBF16Bits = 0x3c80;  // 1/64

// Which weights are kept: N of M by their places, else so many twentieths by chance.
class Kept {
 public:
  Kept(const Pattern& pattern, int twentieths) : pattern_(pattern), twentieths_(twentieths) {}
  bool operator()(std::int64_t column) {
    if (pattern_.kind == Pattern::Kind::kNofM) return column % pattern_.m < pattern_.n;
    return static_cast<int>(random_() % kSteps) < twentieths_;
  }

 private:
  const Pattern& pattern_;
  const int twentieths_;
  std::mt19937 random_{1};
};

// As pack and prune store such a level.
PackedTensor stand_in(const PlanEntry& entry, const SolvedLevel& level, DType dtype, int twentieths) {
  Kept kept(level.pattern, twentieths);
  const auto numel = static_cast<std::size_t>(entry.rows * entry.cols);
  if (level.grid) {
    QuantizedWeight weight{*level.grid, entry.rows, entry.cols, std::vector<std::uint8_t>(numel), {}, {}};
    const auto groups = static_cast<std::size_t>(entry.rows * level.grid->groups_of(entry.cols));
    weight.scales.assign(groups, kHalfBits);
    if (level.grid->asymmetric) weight.zeros.assign(groups, static_cast<std::uint8_t>(level.grid->middle()));
    for (std::size_t i = 0; i < numel; ++i) {
      const bool is_kept = kept(static_cast<std::int64_t>(i) % entry.cols);
      weight.codes[i] = static_cast<std::uint8_t>(level.grid->middle() + (is_kept ? 1 : 0));
    }
    return pack_smallest(weight);
  }
  std::vector<std::uint16_t> bits(numel);
  for (std::size_t i = 0; i < numel; ++i) {
    if (kept(static_cast<std::int64_t>(i) % entry.cols))
      bits[i] = dtype == DType::kF16 ? kHalfBits : kBF16Bits;
  }
  const WeightBits weight{bits, entry.rows, entry.cols, dtype};
  return pack(weight, formats_for(weight, Quantize::kNone).front().format);
}

// What a stand-in is told by. Its zeros are the twentieths, or the pattern's.
std::string stand_in_key(const PlanEntry& entry, SolvedLevel level, DType dtype, int twentieths) {
  level.sparsity = 0.0;
  return fmt::format("{} {} {} {} {}", entry.rows, entry.cols, name_of(dtype), describe(level), twentieths);
}

int nearest_twentieths(double kept) { return static_cast<int>(std::lround(kSteps * kept)); }

// A folder whose index names the stand-ins' file and, for everything else, the model's own files.
void write_stand_ins(const Model& model, std::span<const PlanEntry* const> entries,
                     std::span<const SolvedLevel> levels, const fs::path& folder) {
  const Checkpoint& source = model.checkpoint();
  std::map<std::string, PackedTensor> made;  // by shape and level
  std::vector<const PackedTensor*> of_entry;
  std::vector<PlannedTensor> planned;
  nlohmann::json map;
  for (const TensorInfo& tensor : source.tensors()) map[tensor.name] = "own-" + tensor.file;
  const std::string packed_file = "stand-in.safetensors";
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const PlanEntry& entry = *entries[i];
    const int twentieths = nearest_twentieths(1.0 - levels[i].zeros);
    const DType dtype = source.at(entry.tensor).dtype;
    const std::string key = stand_in_key(entry, levels[i], dtype, twentieths);
    auto found = made.find(key);
    if (found == made.end()) found = made.emplace(key, stand_in(entry, levels[i], dtype, twentieths)).first;
    of_entry.push_back(&found->second);
    const std::string name = entry.tensor + kPackedSuffix;
    planned.push_back({name, DType::kU8, {std::ssize(found->second.bytes())}, packed_file, true});
    map.erase(entry.tensor);
    map[name] = packed_file;
  }
  CheckpointWriter writer(folder, std::move(planned));
  for (std::size_t i = 0; i < entries.size(); ++i) {
    check_interrupt();
    writer.write_bytes(entries[i]->tensor + kPackedSuffix, of_entry[i]->bytes());
  }
  writer.write_file("config.json", packed_config(source));
  writer.finish();
  std::map<std::string, fs::path> files;
  for (const TensorInfo& tensor : source.tensors())
    files.emplace("own-" + tensor.file, fs::absolute(source.folder()) / tensor.file);
  for (const auto& [link, file] : files) fs::create_symlink(file, folder / link);
  write_whole(folder / kSafetensorsIndexFile, nlohmann::json{{"weight_map", map}}.dump());
}

class DeviceClock final : public DecodeClock {
 public:
  DeviceClock(Device& device, ComputeType compute, ProgressFn progress)
      : target_(device.speed_target(compute, {.tune = true})), progress_(std::move(progress)) {}
  double product_us(const PackedTensor& weight) override { return target_->product_us(weight); }
  Steps steps(const Model& dense, const Model& beside) override {
    SpeedOptions options;
    options.batches = {1};
    options.prompt_tokens = kTimedPrompt;
    options.decode_tokens = kTimedTokens;
    options.rounds = kRounds;
    options.progress = progress_;
    std::vector<const Model*> models = {&dense};
    if (&beside != &dense) models.push_back(&beside);
    const SpeedReport report = measure_speed(models, *target_, options);
    const double dense_us = 1e6 / report.models.front().batches.front().decode_tokens_per_second;
    return {dense_us, dense_us / report.models.back().batches.front().decode_ratio};
  }

 private:
  std::unique_ptr<SpeedTarget> target_;
  ProgressFn progress_;
};

}  // namespace

std::unique_ptr<DecodeClock> device_clock(Device& device, ComputeType compute, ProgressFn progress) {
  return std::make_unique<DeviceClock>(device, compute, std::move(progress));
}

DecodeTimes::DecodeTimes(const Model& model, DecodeClock& clock, fs::path work, Communicator& ranks)
    : model_(model), clock_(clock), work_(std::move(work)), ranks_(ranks) {
  if (ranks_.is_first()) dense_us_ = clock_.steps(model_, model_).dense_us;
  ranks_.broadcast(0, std::as_writable_bytes(std::span(&dense_us_, 1)));
}

double DecodeTimes::stand_in_us(const PlanEntry& entry, const SolvedLevel& level, int twentieths) {
  const DType dtype = model_.checkpoint().at(entry.tensor).dtype;
  const std::string key = stand_in_key(entry, level, dtype, twentieths);
  if (const auto found = known_.find(key); found != known_.end()) return found->second;
  double us = 0.0;
  if (ranks_.is_first()) us = clock_.product_us(stand_in(entry, level, dtype, twentieths));
  ranks_.broadcast(0, std::as_writable_bytes(std::span(&us, 1)));
  return known_[key] = us;
}

double DecodeTimes::product_us(const PlanEntry& entry, const SolvedLevel& level) {
  if (level.pattern.kind == Pattern::Kind::kNofM) return stand_in_us(entry, level, 0);
  const double kept = kSteps * std::clamp(1.0 - level.zeros, 0.0, 1.0);
  const int below = std::min(static_cast<int>(kept), kSteps - 1);
  const double share = kept - below;
  const double low = stand_in_us(entry, level, below);
  return share == 0.0 ? low : low + share * (stand_in_us(entry, level, below + 1) - low);
}

double DecodeTimes::measure(std::span<const PlanEntry* const> entries, std::span<const SolvedLevel> levels,
                            double saved_us) {
  expect(entries.size() == levels.size(), "DecodeTimes: a level for each entry");
  double step_us = 0.0;
  if (ranks_.is_first()) {
    const TemporaryFolder folder(work_);
    fs::remove_all(folder.path());  // of a run that was killed
    write_stand_ins(model_, entries, levels, folder.path());
    const auto model = Model::open(folder.path());
    const DecodeClock::Steps steps = clock_.steps(model_, *model);
    step_us = dense_us_ * steps.beside_us / steps.dense_us;  // whatever the machine does now
  }
  ranks_.broadcast(0, std::as_writable_bytes(std::span(&step_us, 1)));
  if (saved_us > 0.0) gain_ = std::clamp((dense_us_ - step_us) / saved_us, kLeastGain, kMostGain);
  return step_us;
}

}  // namespace swiftprune
