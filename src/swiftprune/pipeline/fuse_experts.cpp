#include "swiftprune/pipeline/fuse_experts.h"

#include <cstring>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/model/family.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

struct Block {
  const ExpertsConfig* config;
  ExpertTensors tensors;
  DType dtype;
  std::string file;
  std::string gate_up() const { return config->prefix + "gate_up_proj"; }
  std::string down() const { return config->prefix + "down_proj"; }
};

// [O, I] to element (o, i) at i·width + o·step + first of the expert's slice.
void scatter(std::span<const std::byte> values, std::int64_t rows, std::int64_t cols, std::int64_t size,
             std::int64_t step, std::int64_t first, std::vector<std::byte>& slice) {
  for (std::int64_t o = 0; o < rows; ++o) {
    for (std::int64_t i = 0; i < cols; ++i) {
      std::memcpy(slice.data() + at((i * rows * step + o * step + first) * size),
                  values.data() + at((o * cols + i) * size), at(size));
    }
  }
}

}  // namespace

bool can_fuse_experts(const Checkpoint& source) {
  const ModelConfig model = model_config(source.config());
  const ExpertsConfig* experts = experts_of(model);
  if (experts == nullptr || !experts->fused_by_input) return false;
  return ExpertTensors(source, *experts, model.hidden_size).form() != ExpertForm::kFusedByInput;
}

void fuse_experts(const Checkpoint& source, const std::filesystem::path& target, const ProgressFn& progress) {
  expect(can_fuse_experts(source) && !has_packed_tensors(source),
         "fuse_experts: a dense model of such a family");
  const ModelConfig model = model_config(source.config());
  std::vector<Block> blocks;
  std::set<std::string> gone;
  for (const BlockConfig& config : model.blocks) {
    if (!config.experts) continue;
    Block& block = blocks.emplace_back(
        Block{&*config.experts, ExpertTensors(source, *config.experts, model.hidden_size), DType::kF32, ""});
    block.dtype = block.tensors.dtype(0, ExpertPart::kGate);
    block.file = safetensors_name(source.at(block.tensors.weight_names().front()).file);
    gone.insert(block.tensors.weight_names().begin(), block.tensors.weight_names().end());
  }
  std::vector<PlannedTensor> plan;
  for (PlannedTensor& tensor : plan_like(source)) {
    if (!gone.contains(tensor.name)) plan.push_back(std::move(tensor));
  }
  for (const Block& block : blocks) {
    const std::int64_t count = block.config->count, width = block.config->width;
    plan.push_back({block.gate_up(), block.dtype, {count, model.hidden_size, 2 * width}, block.file});
    plan.push_back({block.down(), block.dtype, {count, width, model.hidden_size}, block.file});
  }
  CheckpointWriter writer(target, std::move(plan));
  for (const TensorInfo& tensor : source.tensors()) {
    if (gone.contains(tensor.name)) continue;
    check_interrupt();
    writer.write_bytes(tensor.name, source.bytes(tensor));
    source.release(tensor);
  }
  std::int64_t done = 0;
  for (const Block& block : blocks) {
    const std::int64_t numel = block.config->width * model.hidden_size, size = size_of(block.dtype);
    std::vector<std::byte> gate_up(at(2 * numel * size)), down(at(numel * size)), own;
    for (std::int64_t e = 0; e < block.config->count; ++e) {
      check_interrupt();
      for (const ExpertPart part : kExpertParts) {
        if (block.tensors.dtype(e, part) != block.dtype) {
          bad_input("{}: expert {} of {}: found {}, expected {} as of the first: one dtype for all experts",
                    source.folder().string(), e, block.config->prefix, name_of(block.tensors.dtype(e, part)),
                    name_of(block.dtype));
        }
        const bool is_down = part == ExpertPart::kDown;
        scatter(block.tensors.bytes(e, part, own), block.tensors.outputs(part), block.tensors.inputs(part),
                size, is_down ? 1 : 2, part == ExpertPart::kUp ? 1 : 0, is_down ? down : gate_up);
      }
      writer.write_bytes_part(block.gate_up(), e * 2 * numel, gate_up);
      writer.write_bytes_part(block.down(), e * numel, down);
      block.tensors.release(e);
    }
    if (progress) progress("experts", ++done, std::ssize(blocks));
  }
  nlohmann::ordered_json config = read_config_file(source);
  if (config.erase("quantization_config") > 0) writer.write_file("config.json", config.dump(2) + "\n");
  writer.copy_other_files(source);
  writer.finish();
}

}  // namespace swiftprune
