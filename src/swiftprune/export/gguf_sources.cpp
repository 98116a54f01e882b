#include "swiftprune/export/gguf_sources.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kMxBlock = 32, kMxBytes = 16;

// GGUF's blocks of one expert's part: the scale, then bytes whose lower halves are the first 16 numbers. The folder has
// pairs of neighbours, and rows of gate and up in turn.
std::vector<std::byte> mxfp4_blocks(const Checkpoint& checkpoint, const std::string& blocks_name,
                                    const std::string& scales_name, std::int64_t expert,
                                    std::int64_t first_row, std::int64_t step, std::int64_t rows,
                                    std::int64_t blocks_a_row) {
  std::vector<std::byte> read_blocks, read_scales;
  const auto blocks = checkpoint.bytes_of_part(checkpoint.at(blocks_name), expert, 1, read_blocks);
  const auto scales = checkpoint.bytes_of_part(checkpoint.at(scales_name), expert, 1, read_scales);
  std::vector<std::byte> result(at(rows * blocks_a_row * (kMxBytes + 1)));
  std::byte* out = result.data();
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t b = 0; b < blocks_a_row; ++b, out += kMxBytes + 1) {
      const std::int64_t index = (first_row + r * step) * blocks_a_row + b;
      const std::byte* pairs = blocks.data() + index * kMxBytes;
      const auto code = [pairs](std::int64_t i) {
        return i % 2 == 0 ? pairs[i / 2] & std::byte{15} : pairs[i / 2] >> 4;
      };
      out[0] = scales[at(index)];
      for (std::int64_t i = 0; i < kMxBytes; ++i) out[1 + i] = code(i) | code(i + kMxBytes) << 4;
    }
  }
  return result;
}

ExpertPart part_of(TensorForm form) {
  return form == TensorForm::kGateExperts ? ExpertPart::kGate
         : form == TensorForm::kUpExperts ? ExpertPart::kUp
                                          : ExpertPart::kDown;
}

class BlockExperts {
 public:
  BlockExperts(const Model& model, std::int64_t block)
      : checkpoint_(model.checkpoint()),
        config_(*model.config().blocks[at(block)].experts),
        tensors_(checkpoint_, config_, model.config().hidden_size) {}

  std::int64_t count() const { return config_.count; }
  bool has_bias() const { return config_.bias; }
  const ExpertTensors& tensors() const { return tensors_; }
  bool in_mxfp4() const { return tensors_.form() == ExpertForm::kMxfp4; }

  StoredMatrix matrix(std::int64_t expert, ExpertPart part) const {
    std::vector<std::byte> own;
    const std::span<const std::byte> bytes = tensors_.bytes(expert, part, own);
    StoredMatrix result{{bytes.begin(), bytes.end()}, tensors_.dtype(expert, part)};
    tensors_.release(expert);
    return result;
  }

  std::vector<std::byte> mxfp4(std::int64_t expert, ExpertPart part) const {
    const bool down = part == ExpertPart::kDown;
    const std::int64_t rows = tensors_.outputs(part), step = down ? 1 : 2;
    const std::size_t first = down ? 2 : 0;  // blocks and scales of gate and up, then those of down
    const auto& names = tensors_.weight_names();
    return mxfp4_blocks(checkpoint_, names[first], names[first + 1], expert, part == ExpertPart::kUp ? 1 : 0,
                        step, rows, tensors_.inputs(part) / kMxBlock);
  }

  // In tensors of their own, or a part of a row of one for all experts.
  StoredMatrix bias(std::int64_t expert, ExpertPart part) const {
    const std::string name = tensors_.bias_name(expert, part);
    const std::int64_t size = tensors_.outputs(part);
    const TensorInfo& tensor = checkpoint_.at(name);
    std::vector<float> values(at(size));
    if (tensor.shape.size() == 1) {
      values = checkpoint_.load_vector(name, size);
    } else {
      Matrix row(1, tensor.shape.back());
      checkpoint_.load_rows(tensor, expert, row.view());
      const bool both = part != ExpertPart::kDown, in_turn = both && config_.fused_by_input;
      const std::int64_t first = part == ExpertPart::kUp ? (in_turn ? 1 : size) : 0;
      for (std::int64_t o = 0; o < size; ++o) values[at(o)] = row.at(0, first + o * (in_turn ? 2 : 1));
    }
    StoredMatrix result{std::vector<std::byte>(at(size) * sizeof(float)), DType::kF32};
    std::memcpy(result.bytes.data(), values.data(), result.bytes.size());
    return result;
  }

 private:
  const Checkpoint& checkpoint_;
  const ExpertsConfig& config_;
  ExpertTensors tensors_;
};

void add_experts(const Model& model, const GgufArchitecture& architecture, std::int64_t block,
                 std::vector<GgufSource>& result) {
  const auto experts = std::make_shared<BlockExperts>(model, block);
  for (const TensorRule& rule : architecture.block_tensors) {
    if (!rule.is_expert()) continue;
    const ExpertPart part = part_of(rule.form);
    const std::int64_t rows = experts->tensors().outputs(part), cols = experts->tensors().inputs(part);
    GgufSource source{.rule = &rule,
                      .block = block,
                      .shape = {experts->count(), rows, cols},
                      .dtype = experts->in_mxfp4() ? DType::kU8 : experts->tensors().dtype(0, part),
                      .name = experts->tensors().weight_names().front(),
                      .tensors = experts->tensors().names(),
                      .matrix = [experts, part](std::int64_t e) { return experts->matrix(e, part); }};
    if (experts->in_mxfp4()) {
      source.mxfp4 = [experts, part](std::int64_t e) { return experts->mxfp4(e, part); };
    }
    result.push_back(std::move(source));
    if (!experts->has_bias()) continue;
    result.push_back({.rule = &rule,
                      .block = block,
                      .is_bias = true,
                      .shape = {experts->count(), rows},
                      .name = experts->tensors().bias_name(0, part),
                      .tensors = {},
                      .matrix = [experts, part](std::int64_t e) { return experts->bias(e, part); }});
  }
}

// A head's rows of kv_b_proj: its key part [plain, rank], which lies transposed in the file, or its value [value, rank].
void add_latent(const Model& model, const TensorRule& rule, std::int64_t block,
                std::vector<GgufSource>& result) {
  const ModelConfig& m = model.config();
  const LatentAttention& latent = *m.blocks[at(block)].latent;
  const std::string name = fmt::format("model.layers.{}.self_attn.kv_b_proj.weight", block);
  const TensorInfo& tensor = model.checkpoint().at(name);
  const bool keys = rule.form == TensorForm::kLatentKeys;
  const std::int64_t plain = latent.plain_size, value = latent.value_size, rank = latent.rank;
  const std::vector<std::int64_t> expected = {m.num_heads * (plain + value), rank};
  if (tensor.shape != expected) {
    bad_input("{}: tensor {}: found shape [{}], expected [{}] from the head sizes of config.json",
              tensor.file, name, fmt::join(tensor.shape, ", "), fmt::join(expected, ", "));
  }
  const auto matrix = [&checkpoint = model.checkpoint(), &tensor, keys, plain, value,
                       rank](std::int64_t head) {
    const std::int64_t rows = keys ? plain : value, size = size_of(tensor.dtype);
    const auto bytes = checkpoint.bytes(tensor).subspan(
        at((head * (plain + value) + (keys ? 0 : plain)) * rank * size), at(rows * rank * size));
    StoredMatrix found{std::vector<std::byte>(bytes.begin(), bytes.end()), tensor.dtype};
    if (keys) transpose_bytes(bytes, rows, rank, size, found.bytes);
    return found;
  };
  result.push_back({.rule = &rule,
                    .block = block,
                    .shape = {m.num_heads, keys ? rank : value, keys ? plain : rank},
                    .dtype = tensor.dtype,
                    .name = name,
                    .tensors = {name},
                    .matrix = matrix});
}

// Rows [first, first + count) of a tensor, one after the other.
struct RowRange {
  std::int64_t first = 0, count = 0;
};

void add_rows_of(const Model& model, const TensorRule& rule, std::int64_t block, const LinearTensors& linear,
                 const std::vector<RowRange>& ranges, std::vector<GgufSource>& result) {
  const TensorInfo& tensor = model.checkpoint().at(linear.name + ".weight");
  std::int64_t rows = 0;
  for (const RowRange& range : ranges) rows += range.count;
  const auto matrix = [&checkpoint = model.checkpoint(), &tensor, ranges](std::int64_t) {
    const auto bytes = checkpoint.bytes(tensor);
    const std::int64_t row_bytes = tensor.shape[1] * size_of(tensor.dtype);
    StoredMatrix found{{}, tensor.dtype};
    for (const RowRange& range : ranges) {
      const auto part = bytes.subspan(at(range.first * row_bytes), at(range.count * row_bytes));
      found.bytes.insert(found.bytes.end(), part.begin(), part.end());
    }
    return found;
  };
  result.push_back({.rule = &rule,
                    .block = block,
                    .shape = {rows, tensor.shape[1]},
                    .dtype = tensor.dtype,
                    .name = tensor.name,
                    .tensors = {tensor.name},
                    .matrix = matrix});
}

// Gate and up of a block's MLP in one linear, or the parts that each key head of a gated DeltaNet has of one.
void add_parts(const Model& model, const TensorRule& rule, std::int64_t block,
               std::vector<GgufSource>& result) {
  const BlockConfig& config = model.config().blocks[at(block)];
  if (rule.form == TensorForm::kGateRows || rule.form == TensorForm::kUpRows) {
    if (config.up.empty()) return;
    const std::int64_t rows = config.down.inputs;
    const std::int64_t first = rule.form == TensorForm::kUpRows ? rows : 0;
    return add_rows_of(model, rule, block, config.up.front(), {{first, rows}}, result);
  }
  if (!config.recurrent) return;
  const auto& net = std::get<GatedDeltaNet>(*config.recurrent);
  const std::int64_t size = net.key_size, own = net.value_heads / net.key_heads * net.value_size;
  const std::int64_t all = 2 * (size + own);  // of a key head
  std::vector<RowRange> ranges;
  const auto of_each_head = [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t head = 0; head < net.key_heads; ++head) ranges.push_back({head * all + first, count});
  };
  if (rule.form == TensorForm::kGroupedQkv) {
    of_each_head(0, size);
    of_each_head(size, size);
    of_each_head(2 * size, own);
  } else {
    of_each_head(2 * size + own, own);
  }
  add_rows_of(model, rule, block, config.qkv.front(), ranges, result);
}

}  // namespace

std::vector<GgufSource> gguf_sources(const Model& model, const GgufArchitecture& architecture) {
  std::vector<GgufSource> result;
  for (std::int64_t block = 0; block < model.config().num_layers(); ++block) {
    const BlockConfig& config = model.config().blocks[at(block)];
    if (config.experts) add_experts(model, architecture, block, result);
    for (const TensorRule& rule : architecture.block_tensors) {
      if (rule.is_latent() && config.latent) add_latent(model, rule, block, result);
      if (rule.is_made() && !rule.is_expert() && !rule.is_latent()) add_parts(model, rule, block, result);
    }
  }
  return result;
}

}  // namespace swiftprune
