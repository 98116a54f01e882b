// When is there enough calibration text? The energies of the linears' inputs, each normalised to a sum of 1,
// are followed over segments of the text; text is enough once another segment hardly moves them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

inline constexpr std::int64_t kStoppingSegment = 256;  // tokens

// Measured on SmolLM2-135M (docs/evaluation.md): a score changes no more after one window of 2048 tokens; a
// Gram matrix has to settle in I² numbers, not I, and pays off up to about sixteen.
inline constexpr double kScoreTolerance = 0.04;
inline constexpr double kGramTolerance = 0.0012;

struct StableWindows {
  std::int64_t windows = 0;     // the fewest that suffice, at least 1; all when the text ends before
  bool stable = false;          // false: the text ended before
  std::vector<double> changes;  // behind each window that was looked at: the EWMA that is compared
};

// The energies Σ x² of the inputs of one model's linears, wherever they are computed:
// make_cpu_input_energies() computes on the processor, Device::input_energies() wherever it is.
class InputEnergies {
 public:
  virtual ~InputEnergies() = default;
  // energy [I]: of everything up to and with this segment of `window` (counted from `first`).
  using Consume = std::function<void(std::int64_t layer, LinearInput input, std::int64_t window,
                                     std::int64_t segment, std::span<const double> energy)>;
  // Goes on with windows [first, first + count), and hands over what each of their segments makes of each
  // input: segments of an input in order, inputs of a layer and layers in order for each segment.
  virtual void follow(std::int64_t first, std::int64_t count, const Consume& consume) = 0;
};
// Keeps references to all of them.
std::unique_ptr<InputEnergies> make_cpu_input_energies(const Model& model, const Backend& backend,
                                                       const TokenWindows& windows, ComputeType compute);

// Runs the dense model over the windows, in groups of 1, 1, 2, 4, ... With E_t the sum of an input's energies
// over the first t segments and p_t = E_t / Σ_j E_tj, a segment's change is c_t = ½ Σ_j |p_t - p_(t-1)|, its
// mean over all inputs of all blocks; c ← c + ¼ (c_t - c) from segment 2 on. The first window behind which c
// < tolerance is the last.
StableWindows windows_until_stable(const Model& model, InputEnergies& energies, const TokenWindows& windows,
                                   double tolerance, const ProgressFn& progress);

}  // namespace swiftprune
