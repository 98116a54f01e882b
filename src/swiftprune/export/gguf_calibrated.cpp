#include "swiftprune/export/gguf_calibrated.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/calibration/stats_part.h"
#include "swiftprune/export/gguf_compensate.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/pipeline/drivers/cpu_block.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"
#include "swiftprune/pipeline/streams/two_streams.h"

namespace swiftprune {

void quantize_calibrated(const Model& model, const GgufCalibration& calibration,
                         const std::map<std::string, CalibratedTensor>& tensors, const ProgressFn& progress,
                         const std::function<void(const std::string&, std::span<const std::byte>)>& write) {
  const Backend& backend = calibration.backend;
  CpuStreamOps ops(model, backend, calibration.windows);
  TwoStreams<CpuStreamOps> streams(ops);
  CpuBlock block(model, backend, calibration.compute);
  const auto planned = [&](const BlockLinear& linear) {
    const auto found = tensors.find(linear.tensors.name + ".weight");
    return found == tensors.end() ? nullptr : &*found;
  };
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    check_interrupt();
    block.load(layer, true);
    block.pack_dense();
    block.pack();
    streams.start_block(block.dense(), *block);
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      std::vector<BlockLinear*> readers;
      for (BlockLinear& linear : block->linears()) {
        if (linear.tensors.input == input && planned(linear) != nullptr) readers.push_back(&linear);
      }
      if (readers.empty()) {
        streams.collect(input, nullptr);
        continue;
      }
      // Where the output is normed before it joins the residual, there is nothing to make up for.
      const bool both = input == LinearInput::kAttentionOutput && block->config().beside;
      const bool joins = is_output(input) && !both && !block->norms_output(input);
      const std::int64_t residual = joins ? model.config().hidden_size : 0;
      const std::int64_t width = observed_width(block->config(), input, model.config().hidden_size);
      ActivationStats stats(width, {.energy = true, .gram = true, .alignment = true}, residual,
                            calibration.compute);
      streams.collect(input, &stats);
      stats.finish(fmt::format("block {}, {}", layer, name_of(input)));
      std::optional<StatsPart> part;
      std::optional<CompensationBasis> basis;  // the same for all that read all of it
      for (BlockLinear* linear : readers) {
        const LinearTensors& tensors_of = linear->tensors;
        if (!basis || tensors_of.inputs < width) {
          basis.reset();
          part.emplace(stats.view(), tensors_of.first_input, tensors_of.inputs);
          basis.emplace(part->stats(), backend, tensors_of.name);
        }
        const auto& [name, tensor] = *planned(*linear);
        check_finite(linear->weight.view(), name);
        std::vector<std::byte> bytes(static_cast<std::size_t>(
            linear->weight.numel() / tensor.type->block_size * tensor.type->block_bytes));
        basis->quantize(*tensor.type, tensor.keep_zeros, linear->weight.view(), bytes);
        write(name, bytes);
      }
      block.changed(input);
      block.pack();
    }
    streams.finish_block();
    progress("quantize", layer + 1, model.config().num_layers());
  }
  block.release();
}

}  // namespace swiftprune
