// The calibration windows on their way through a block's experts, one expert after the other, so that one of them and
// its statistics are in memory, whatever their number. An expert sees the tokens that the router sends it; the hidden
// states before the experts stay until the last is done, and their inputs are made from them again for each. On the
// processor. With the dense model beside the pruned one (two_streams.h), tokens go where the pruned model's router
// sends them, and each expert is compared with itself in the dense model on the same tokens.
//
// In memory, beside the hidden states of the streams: as many outputs, and a few thousand tokens of one expert.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "swiftprune/model/decoder_block.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"

namespace swiftprune {

class ExpertStream {
 public:
  ExpertStream(const CpuStreamOps& ops, const Backend& backend, const TokenWindows& windows)
      : ops_(ops), backend_(backend), windows_(windows) {}

  // hidden [N, hidden]: before the block -> behind its attention.
  void pass_attention(const DecoderBlock& block, Matrix& hidden) const;
  // The shared expert's down projection, both hidden states being behind attention.
  void collect_shared(ActivationStats& stats, const DecoderBlock& block, Matrix& hidden,
                      const DecoderBlock& dense, Matrix& dense_hidden) const;

  // Behind attention; what is given here must outlive finish(). passes: the experts' outputs are added up, and
  // finish() makes the hidden states the block's output; the shared expert's are added here. dense: null where the
  // pruned model runs alone.
  void start(const DecoderBlock& block, Matrix& hidden, bool passes);
  void start_beside(const DecoderBlock& dense, Matrix& dense_hidden);

  std::vector<std::int64_t> num_tokens() const;  // by expert
  // Of all tokens where pooled, else of those that the router sends to it. Null: not wanted.
  struct Rows {
    std::int64_t expert = 0;
    bool pooled = false;
    // Window by window, for statistics that depend on the order of windows; else thousands of tokens at a time.
    bool by_window = false;
  };
  // The expert's inputs and its down projection's.
  void collect(const Rows& rows, const Expert& expert, ActivationStats* input, ActivationStats* inner) const;
  // With the dense model beside: of one of the two. A token counts by the square of its weight g in the expert's sum
  // (by 1 where pooled), inputs of the down projection also as in two_streams.h.
  void collect_aligned(const Rows& rows, const Expert& expert, LinearInput which,
                       ActivationStats& stats) const;
  // What the expert makes of its tokens; the dense model's own joins the dense stream.
  void add_outputs(std::int64_t index, const Expert& expert);
  void finish();

 private:
  struct Side {
    const DecoderBlock* block = nullptr;
    Matrix* hidden = nullptr;
    Matrix outputs;  // [N, hidden], or empty
    std::vector<ExpertTokens> tokens;
  };
  using ChunkFn = std::function<void(std::int64_t first, std::span<const std::int64_t> rows)>;

  Side side(const DecoderBlock& block, Matrix& hidden, bool passes) const;
  Matrix inputs_of(const Side& side, std::span<const std::int64_t> rows) const;
  void for_chunks(const Rows& rows, const ChunkFn& body) const;
  void add_outputs(Side& side, std::int64_t index, const Expert& expert) const;
  static void finish(const Backend& backend, Side& side);

  const CpuStreamOps& ops_;
  const Backend& backend_;
  const TokenWindows& windows_;
  Side own_, dense_;
};

}  // namespace swiftprune
