// A checkpoint understood: configuration, embedding, blocks on demand and head. Weights stay in the mapped
// files until a block is loaded, so a model may be larger than memory.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/model/decoder_block.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/model/token_embedding.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

// The norm before the output projection.
class FinalNorm {
 public:
  FinalNorm(const Checkpoint& checkpoint, const ModelConfig& model);
  bool present() const { return model_.final_norm.has_value(); }
  // rows [N, row_size] -> y [N, hidden], or rows of hidden states in place; only when present().
  void apply(const Backend& backend, ConstMatrixView hidden, MatrixView y) const;

 private:
  const ModelConfig& model_;
  std::vector<float> gain_, bias_;
};

// The LayerNorm of a model that norms its embeddings.
class EmbeddingNorm {
 public:
  EmbeddingNorm() = default;
  EmbeddingNorm(const Checkpoint& checkpoint, const ModelConfig& model);
  void apply(MatrixView hidden) const;  // [N, hidden], in place

 private:
  std::vector<float> gain_, bias_;
  float eps_ = 0.0f;
};

// Final norm, output projection and soft cap.
class ModelHead {
 public:
  ModelHead(const Checkpoint& checkpoint, const ModelConfig& model, const Backend& backend,
            ComputeType compute, WeightUse use);
  // hidden [N, row_size] -> logits [N, vocab]
  void logits(const Backend& backend, ConstMatrixView hidden, MatrixView logits) const;
  std::int64_t num_bytes() const;  // of the output projection, as it is multiplied with

 private:
  const ModelConfig& model_;
  FinalNorm norm_;
  std::vector<float> head_bias_;
  Matrix weight_;
  std::unique_ptr<PackedWeight> packed_;
  std::optional<Linear> compact_;
  ComputeType compute_;
};

class Model {
 public:
  // Reads config.json and checks that every tensor of the family is there with its shape. adapter: a LoRA folder whose
  // parts stand beside the linears (adapter.h); empty: none.
  static std::unique_ptr<Model> open(const std::filesystem::path& folder,
                                     const std::filesystem::path& adapter = {});

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const ModelConfig& config() const { return config_; }
  const Adapter* adapter() const { return adapter_.get(); }  // or null
  // What was read otherwise than the folder says, for the user: of the checkpoint and of config.json.
  const std::vector<std::string>& notes() const { return notes_; }

  DecoderBlock load_block(std::int64_t layer, WeightUse use = WeightUse::kFloat) const {
    return DecoderBlock(checkpoint_, config_, layer, use, adapter_.get());
  }
  // Every tensor of the block, its experts' too.
  std::vector<std::string> block_tensors(std::int64_t layer) const;
  // The block's pages of the mapped files are not needed for now.
  void release_block(std::int64_t layer) const;
  ModelHead load_head(const Backend& backend, ComputeType compute, WeightUse use = WeightUse::kFloat) const {
    return ModelHead(checkpoint_, config_, backend, compute, use);
  }
  // Tables of all rotary embeddings for positions [0, num_positions).
  std::vector<RopeTable> rope_tables(std::int64_t num_positions) const;
  // ids [S·sequence_length], the positions of each sequence counted from first_position -> rows of hidden states [N,
  // row_size]. Throws Error{kBadInput} for an id outside the vocabulary.
  void embed(std::span<const std::int32_t> ids, std::int64_t sequence_length, std::int64_t first_position,
             MatrixView rows) const;
  // Windows [first, first + count), each from position 0 -> [count·seqlen, row_size].
  Matrix embed_windows(const TokenWindows& windows, std::int64_t first, std::int64_t count) const;
  // Throws Error{kUsage} naming `flag` when more positions are asked for than the model has.
  void check_length(std::int64_t num_positions, std::string_view flag) const;

 private:
  explicit Model(Checkpoint checkpoint);
  Checkpoint checkpoint_;
  ModelConfig config_;
  std::shared_ptr<const Adapter> adapter_;
  std::vector<std::string> notes_;
  std::optional<TokenEmbedding> embedding_;
  EmbeddingNorm embedding_norm_;  // where the model has one
};

}  // namespace swiftprune
