#include "swiftprune/pilot/trial.h"

#include <algorithm>
#include <chrono>

#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {

double decode_speed(const Model& model, Device& device, std::span<const std::int32_t> text,
                    ComputeType compute) {
  constexpr std::int64_t kPrompt = 32, kTokens = 24;
  const auto prompt = std::min<std::int64_t>(kPrompt, std::ssize(text) / 2);
  const auto tokens = std::min<std::int64_t>(kTokens, std::ssize(text) - prompt);
  const auto generator = device.generator(model, compute, 1, prompt + tokens, {});
  generator->append(text.first(static_cast<std::size_t>(prompt)));
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t t = 0; t < tokens; ++t)
    generator->append(text.subspan(static_cast<std::size_t>(prompt + t), 1));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(tokens) / std::max(1e-9, seconds.count());
}

void measure_packed(const Model& model, const std::filesystem::path& folder,
                    const std::function<double(const Model&)>& speed, ModelReport& trial) {
  const StoredWeights stored(model.checkpoint());
  std::vector<std::string> linears;
  double weights = 0.0;
  for (const LinearSummary& linear : trial.summary.linears) {
    const DType dtype = stored.info(linear.name).dtype;
    if (dtype != DType::kBF16 && dtype != DType::kF16) continue;
    linears.push_back(linear.name);
    weights += static_cast<double>(linear.rows) * static_cast<double>(linear.cols);
  }
  if (linears.empty()) {  // F32 is not packed
    trial.decode_tokens_per_second = speed(model);
    return;
  }
  const TemporaryFolder packed(folder);
  PackOptions options;
  options.parts = &stored;
  const PackReport report = pack_checkpoint(model.checkpoint(), linears, folder, options);
  trial.packed_bytes = report.target_bytes;
  if (linears.size() == trial.summary.linears.size())
    trial.summary.bits_per_weight = 8.0 * static_cast<double>(report.packed_bytes) / weights;
  trial.decode_tokens_per_second = speed(*Model::open(folder));
}

}  // namespace swiftprune
