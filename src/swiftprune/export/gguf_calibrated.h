// The linears of the decoder blocks rounded for the inputs that they will get: calibration windows run through
// the dense model and through the rounded one side by side (pipeline/streams/two_streams.h), and each linear is
// rounded by gguf_compensate.h. In memory: two blocks, both streams' hidden states and one input's statistics.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "swiftprune/backend/backend.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/export/gguf_quantize.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct GgufCalibration {
  const Backend& backend;
  const TokenWindows& windows;
  ComputeType compute = ComputeType::kF32;
};

struct CalibratedTensor {
  const GgmlTypeTraits* type = nullptr;  // with a grid
  bool keep_zeros = false;
};

// Calls write(tensor, bytes of all its rows) for each of `tensors` (by the checkpoint's names), block by
// block. Linears that are not among them stay dense. Throws Error{kBadInput} for activations that are not finite.
void quantize_calibrated(const Model& model, const GgufCalibration& calibration,
                         const std::map<std::string, CalibratedTensor>& tensors, const ProgressFn& progress,
                         const std::function<void(const std::string&, std::span<const std::byte>)>& write);

}  // namespace swiftprune
