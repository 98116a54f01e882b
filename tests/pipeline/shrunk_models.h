// What the tests of structured pruning compare: logits, also of a dense model in which zeros stand for what
// is gone.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "support/logits.h"
#include "support/random_windows.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/drivers/shrink.h"

namespace swiftprune::test {

inline std::filesystem::path tiny(const std::string& name) {
  return std::filesystem::path(SWIFTPRUNE_TEST_DATA "/model") / name;
}

// The dense model with the units that are gone as zero columns and the layers as silent ones.
inline Matrix masked_logits(const Model& model, const Backend& backend, const TokenWindows& windows,
                            const ShrinkResult& result) {
  const std::vector<RopeTable> ropes = model.rope_tables(windows.seqlen);
  Matrix hidden = model.embed_windows(windows, 0, windows.num_windows());
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    DecoderBlock block = model.load_block(layer);
    const auto kept = std::find_if(result.blocks.begin(), result.blocks.end(),
                                   [&](const ShrunkBlock& b) { return b.layer == layer; });
    if (kept == result.blocks.end()) {
      silence(block);
    } else {
      for (const LinearInput output : {LinearInput::kAttentionOutput, LinearInput::kMlpOutput}) {
        keep_columns(output_projection(block, output),
                     kept_columns(model.config(), block.config(), output, kept->kept));
      }
    }
    block.pack(backend, ComputeType::kF32);
    BlockForwardOptions options;
    options.sequence_length = windows.seqlen;
    block.forward(backend, ropes, hidden.view(), options);
  }
  Matrix logits(hidden.rows(), model.config().vocab_size);
  model.load_head(backend, ComputeType::kF32).logits(backend, hidden.view(), logits.view());
  return logits;
}

// Every layer another size.
inline ShrinkShape staircase(const ModelConfig& m) {
  ShrinkShape shape = shape_of(m);
  for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
    shape.layer_channels.push_back(m.intermediate_size - 4 * layer - 4);
    shape.layer_groups.push_back(layer % 2 == 0 ? m.num_kv_heads
                                                : std::max<std::int64_t>(1, m.num_kv_heads - 1));
  }
  shape.channels = shape.layer_channels.front();
  return shape;
}

inline double largest_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  }
  return most;
}
inline double largest_difference(const Matrix& a, const Matrix& b) {
  return largest_difference(a.values(), b.values());
}

}  // namespace swiftprune::test
