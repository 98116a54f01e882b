#include "swiftprune/calibration/self_text.h"

#include <algorithm>
#include <vector>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/sampler.h"

namespace swiftprune {

TokenWindows self_text(const GeneratorMaker& make_generator, const SelfTextOptions& options) {
  constexpr std::int64_t kLockstep = 8;  // samples side by side: the weights are read once for all of them
  TokenWindows windows;
  windows.seqlen = options.seqlen;
  const std::int64_t total = options.windows * options.seqlen;
  const std::int64_t length = std::min(options.sample_length, options.seqlen);
  const std::int64_t num_samples = ceil_div(total, length);
  windows.ids.resize(static_cast<std::size_t>(num_samples * length));
  const std::int64_t lanes = std::min(kLockstep, num_samples);
  const auto generator = make_generator(lanes, length);
  for (std::int64_t first = 0; first < num_samples; first += lanes) {
    generator->restart();
    std::vector<Sampler> samplers;
    for (std::int64_t s = 0; s < lanes; ++s) {
      samplers.emplace_back(SamplerOptions{1.0, 1.0, options.seed + static_cast<std::uint64_t>(first + s)});
    }
    std::vector<std::int32_t> current(static_cast<std::size_t>(lanes), options.first_token);
    for (std::int64_t t = 0; t < length; ++t) {
      for (std::int64_t s = 0; s < std::min(lanes, num_samples - first); ++s) {
        windows.ids[static_cast<std::size_t>((first + s) * length + t)] =
            current[static_cast<std::size_t>(s)];
      }
      if (options.progress)
        options.progress("writing calibration text", std::min(total, (first * length) + (t + 1) * lanes),
                         total);
      if (t + 1 == length) break;
      const ConstMatrixView logits = generator->append(current);
      parallel_for(lanes, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t s = begin; s < end; ++s) {
          current[static_cast<std::size_t>(s)] =
              samplers[static_cast<std::size_t>(s)].next(logits.row_span(s));
        }
      });
    }
  }
  windows.ids.resize(static_cast<std::size_t>(total));
  return windows;
}

}  // namespace swiftprune
