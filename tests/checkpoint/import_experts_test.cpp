// Experts of GGUF files: packed ones, numbers and shapes that disagree, files of old converters.
#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "checkpoint/gguf_fixture.h"
#include "support/expect_error.h"
#include "support/gguf_builder.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/model.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::bytes_of;
using test::expect_error;
using test::gguf_fixture;
using test::GgufBuilder;
using test::raw;
using test::read_json;
using test::TempDir;

// gpt-oss alone has a place for experts in MXFP4: they stay as they are, bit for bit.
TEST(ImportExperts, MxFp4Stays) {
  const TempDir dir;
  const ImportReport report = import_gguf(gguf_fixture("gpt_oss_mxfp4.gguf"), dir.path() / "out", {});
  EXPECT_EQ(report.dtype, DType::kF32);  // of all but the experts
  const std::string file = test::read_text(gguf_fixture("gpt_oss_mxfp4.safetensors"));
  const SafetensorsHeader expected = parse_safetensors(std::as_bytes(std::span(file)), "expected");
  const Checkpoint out = Checkpoint::open(dir.path() / "out");
  ASSERT_EQ(out.tensors().size(), expected.tensors.size());
  for (const TensorInfo& tensor : expected.tensors) {
    const TensorInfo& found = out.at(tensor.name);
    EXPECT_EQ(found.shape, tensor.shape) << tensor.name;
    EXPECT_EQ(found.dtype, tensor.dtype) << tensor.name;
    EXPECT_EQ(bytes_of(out, found),
              file.substr(expected.data_begin + tensor.begin, tensor.end - tensor.begin))
        << tensor.name;
  }
  EXPECT_EQ(read_json(dir.path() / "out/config.json").at("quantization_config"),
            json({{"quant_method", "mxfp4"}}));
}

// The same experts as numbers, where a dtype is asked for.
TEST(ImportExperts, MxFp4IsExpandedOnRequest) {
  const TempDir dir;
  import_gguf(gguf_fixture("gpt_oss_mxfp4.gguf"), dir.path() / "packed", {});
  import_gguf(gguf_fixture("gpt_oss_mxfp4.gguf"), dir.path() / "plain", {.dtype = DType::kBF16});
  EXPECT_FALSE(read_json(dir.path() / "plain/config.json").contains("quantization_config"));
  const auto packed = Model::open(dir.path() / "packed"), plain = Model::open(dir.path() / "plain");
  const auto config = [](const Model& model) -> const ExpertsConfig& {
    return *model.config().blocks[1].experts;
  };
  const ExpertTensors a(packed->checkpoint(), config(*packed), 32),
      b(plain->checkpoint(), config(*plain), 32);
  EXPECT_EQ(a.form(), ExpertForm::kMxfp4);
  EXPECT_EQ(b.form(), ExpertForm::kFusedByInput);
  for (const ExpertPart part : kExpertParts) {
    for (std::int64_t e = 0; e < 4; ++e) {
      const BlockLinear x = a.load(e, part, WeightUse::kFloat), y = b.load(e, part, WeightUse::kFloat);
      for (std::int64_t k = 0; k < x.weight.numel(); ++k) ASSERT_EQ(x.weight.data()[k], y.weight.data()[k]);
    }
  }
}

// A fixture with some of its values and tensors changed.
class ExpertFile {
 public:
  explicit ExpertFile(const std::string& name) : file_(GgufFile::open(gguf_fixture(name + ".gguf"))) {}

  std::map<std::string, std::uint32_t> numbers;  // keys that get another number; 0: no such key
  std::map<std::string, std::vector<std::uint64_t>>
      shapes;  // tensors of another shape; empty: no such tensor
  std::function<void(GgufBuilder&)> extra = [](GgufBuilder&) {};

  std::string build() const {
    GgufBuilder b;
    for (const std::string_view key : file_.keys()) {
      if (file_.is_text(key)) {
        if (key == "tokenizer.ggml.tokens" || key == "tokenizer.ggml.merges") {
          const auto texts = file_.texts(key);
          b.texts(key, {texts->begin(), texts->end()});
        } else {
          b.text(key, *file_.text(key));
        }
        continue;
      }
      const std::string suffix(key.substr(key.find('.') + 1));
      if (const auto changed = numbers.find(suffix); changed != numbers.end()) continue;
      if (suffix == "expert_weights_norm") {
        b.add(key, test::kBool, std::string(1, *file_.boolean(key) ? '\1' : '\0'));
      } else if (key == "tokenizer.ggml.token_type") {
        std::string elements;
        const std::vector<std::int64_t> types = *file_.integers(key);
        for (const std::int64_t type : types) elements += raw(static_cast<std::int32_t>(type));
        b.array(key, test::kI32, types.size(), elements);
      } else if (const double number = *file_.number(key); number == std::floor(number) && number < 1e6) {
        b.u32(key, static_cast<std::uint32_t>(number));
      } else {
        b.f32(key, static_cast<float>(number));
      }
    }
    const std::string prefix = std::string(*file_.text("general.architecture")) + ".";
    for (const auto& [key, number] : numbers) {
      if (number > 0) b.u32(prefix + key, number);
    }
    for (const GgufTensor& tensor : file_.tensors()) {
      const auto changed = shapes.find(tensor.name);
      if (changed != shapes.end()) {
        if (!changed->second.empty()) b.floats(tensor.name, changed->second);
        continue;
      }
      const auto bytes = file_.bytes(tensor);
      b.tensor(tensor.name, {tensor.shape.rbegin(), tensor.shape.rend()},
               static_cast<std::uint32_t>(tensor.type->type),
               {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    extra(b);
    return b.build();
  }

 private:
  GgufFile file_;
};

void expect_bad_experts(const ExpertFile& file, const std::string& text) {
  const TempDir dir;
  test::write_text(dir.path() / "m.gguf", file.build());
  expect_error(ErrorKind::kBadInput, [&] { import_gguf(dir.path() / "m.gguf", dir.path() / "out", {}); },
               {"m.gguf: ", text});
  EXPECT_FALSE(fs::exists(dir.path() / "out"));
}

TEST(ImportExperts, UnchangedFilesAreRead) {
  for (const char* name : {"qwen3moe", "deepseek_v3", "gpt_oss"}) {
    const TempDir dir;
    test::write_text(dir.path() / "m.gguf", ExpertFile(name).build());
    EXPECT_NO_THROW(import_gguf(dir.path() / "m.gguf", dir.path() / "out", {})) << name;
  }
}

TEST(ImportExperts, RefusesNumbersThatDisagreeWithTensors) {
  const auto change = [](const char* name, const std::string& key, std::uint32_t number) {
    ExpertFile file(name);
    file.numbers[key] = number;
    return file;
  };
  expect_bad_experts(
      change("qwen3moe", "expert_count", 3),
      "tensor blk.0.ffn_gate_inp.weight: found shape [6, 8], expected [3, 8] from expert_count");
  expect_bad_experts(change("qwen3moe", "expert_count", 0), "qwen3moe.expert_count is missing");
  expect_bad_experts(change("qwen3moe", "expert_count", 70000), "found 70000, expected 1 to 65536");
  expect_bad_experts(change("qwen3moe", "expert_used_count", 7),
                     "expert_used_count: found 7, expected 1 to qwen3moe.expert_count (6)");
  expect_bad_experts(change("qwen3moe", "expert_feed_forward_length", 20),
                     "tensor blk.0.ffn_gate_exps.weight: found shape [6, 10, 8], expected [6, 20, 8] from "
                     "expert_count, expert_feed_forward_length and embedding_length");
  expect_bad_experts(change("qwen3moe", "expert_weights_scale", 3), "qwen3moe.expert_weights_scale: found 3");
  expect_bad_experts(change("mixtral", "expert_count", 0),
                     "llama.expert_used_count: found 2, which swiftprune does not read");
  expect_bad_experts(change("deepseek_v3", "expert_group_count", 4),
                     "expected a divisor of expert_count (9)");
  expect_bad_experts(change("deepseek_v3", "expert_group_used_count", 4), "expected at most");
  expect_bad_experts(change("deepseek_v3", "expert_gating_func", 4), "expected 1 (softmax) or 2 (sigmoid)");
  expect_bad_experts(change("deepseek_v3", "expert_gating_func", 1), "exp_probs_b.bias: was not expected");
  expect_bad_experts(change("deepseek_v3", "leading_dense_block_count", 3), "expected 0 to block_count (2)");
  expect_bad_experts(change("deepseek_v3", "leading_dense_block_count", 2),
                     "leading_dense_block_count: found 2, expected fewer than the 2 blocks");
  expect_bad_experts(change("deepseek_v3", "block_count", 2000000000),
                     "block_count: found 2000000000, expected at most the");
  expect_bad_experts(change("deepseek_v3", "nextn_predict_layers", 2), "expected 0 to block_count (2) - 1");
  expect_bad_experts(change("deepseek_v3", "attention.value_length_mla", 9),
                     "tensor blk.0.attn_v_b.weight: found shape [2, 8, 10], expected [2, 9, 10]");
  expect_bad_experts(change("deepseek_v3", "attention.key_length_mla", 4),
                     "expected more than rope.dimension_count");
  expect_bad_experts(change("deepseek_v3", "attention.q_lora_rank", 0),
                     "tensor blk.0.attn_q.weight is missing");
  expect_bad_experts(change("deepseek_v3", "rope.scaling.yarn_log_multiplier", 0),
                     "yarn_log_multiplier: found 0");
}

TEST(ImportExperts, RefusesTensorsOfAnotherShape) {
  const auto change = [](const char* name, const std::string& tensor,
                         const std::vector<std::uint64_t>& shape) {
    ExpertFile file(name);
    file.shapes[tensor] = shape;
    return file;
  };
  // Half of the experts.
  expect_bad_experts(change("qwen3moe", "blk.1.ffn_up_exps.weight", {8, 10, 3}),
                     "tensor blk.1.ffn_up_exps.weight: found shape [3, 10, 8], expected [6, 10, 8]");
  expect_bad_experts(change("qwen3moe", "blk.1.ffn_down_exps.weight", {8, 10, 6}),
                     "tensor blk.1.ffn_down_exps.weight: found shape [6, 10, 8], expected [6, 8, 10]");
  expect_bad_experts(change("qwen3moe", "blk.0.ffn_up_exps.weight", {80, 6}), "found shape [6, 80]");
  expect_bad_experts(change("qwen3moe", "blk.0.ffn_up_exps.weight", {}),
                     "blk.0.ffn_up_exps.weight: is missing");
  expect_bad_experts(change("qwen3moe", "blk.1.ffn_gate_inp.weight", {8, 5}),
                     "found shape [5, 8], expected [6, 8]");
  expect_bad_experts(change("gpt_oss", "blk.0.ffn_gate_exps.bias", {12, 2}),
                     "found shape [2, 12], expected [4, 12]");
  expect_bad_experts(change("gpt_oss", "blk.0.ffn_down_exps.bias", {}),
                     "blk.0.ffn_down_exps.bias: is missing");
  expect_bad_experts(change("gpt_oss", "blk.0.attn_sinks.weight", {}), "blk.0.attn_sinks.weight: is missing");
  expect_bad_experts(change("deepseek_v3", "blk.1.exp_probs_b.bias", {4}), "found shape [4], expected [9]");
  expect_bad_experts(change("deepseek_v3", "blk.1.exp_probs_b.bias", {}),
                     "tensor blk.1.exp_probs_b.bias is missing: expert_gating_func is 2");
  expect_bad_experts(change("deepseek_v3", "blk.1.attn_k_b.weight", {10, 6, 2}),
                     "found shape [2, 6, 10], expected [2, 10, 6]");
  expect_bad_experts(change("deepseek_v3", "blk.1.attn_q_b.weight", {}), "blk.1.attn_q_b.weight: is missing");
  expect_bad_experts(change("deepseek_v3", "blk.0.attn_k_b.weight", {}), "blk.0.attn_k_b.weight is missing");
}

// Blocks that predict further tokens are no layers of the model.
TEST(ImportExperts, LeavesOutBlocksBehindTheModel) {
  const TempDir dir;
  ExpertFile file("glm4moe");
  file.numbers["block_count"] = 3;
  file.numbers["nextn_predict_layers"] = 1;
  test::write_text(dir.path() / "m.gguf", file.build());
  const ImportReport report = import_gguf(dir.path() / "m.gguf", dir.path() / "out", {});
  EXPECT_EQ(read_json(dir.path() / "out/config.json").at("num_hidden_layers"), 2);
  EXPECT_TRUE(report.notes.empty());  // the file has none of their tensors
  file.extra = [](GgufBuilder& b) {
    b.floats("blk.2.nextn.eh_proj.weight", {16, 8}).floats("blk.2.attn_norm.weight", {8});
  };
  test::write_text(dir.path() / "m.gguf", file.build());
  const ImportReport with_tensors = import_gguf(dir.path() / "m.gguf", dir.path() / "again", {});
  EXPECT_EQ(with_tensors.num_tensors, report.num_tensors);
  ASSERT_EQ(with_tensors.notes.size(), 1u);
  EXPECT_NE(with_tensors.notes[0].find("2 tensors of a block are left out"), std::string::npos);
}

// Files from before May 2025 have kv_b as it is and the heads' own sizes.
TEST(ImportExperts, ReadsLatentAttentionOfOldFiles) {
  const TempDir dir;
  import_gguf(gguf_fixture("deepseek_v2.gguf"), dir.path() / "new", {});
  const Checkpoint expected = Checkpoint::open(dir.path() / "new");
  ExpertFile file("deepseek_v2");
  file.numbers = {{"attention.key_length_mla", 0},
                  {"attention.value_length_mla", 0},
                  {"attention.key_length", 10},
                  {"attention.value_length", 8}};
  for (const char* block : {"blk.0.", "blk.1."}) {
    for (const char* part : {"attn_k_b.weight", "attn_v_b.weight"})
      file.shapes[block + std::string(part)] = {};
  }
  expect_bad_experts(file,
                     "tensor blk.0.attn_kv_b.weight is missing: the file has no attention.key_length_mla");
  file.extra = [&](GgufBuilder& b) {
    for (const std::string block : {"0", "1"}) {
      const TensorInfo& tensor = expected.at("model.layers." + block + ".self_attn.kv_b_proj.weight");
      b.tensor("blk." + block + ".attn_kv_b.weight", {10, 28}, 0, bytes_of(expected, tensor));
    }
  };
  test::write_text(dir.path() / "m.gguf", file.build());
  import_gguf(dir.path() / "m.gguf", dir.path() / "old", {});
  const Checkpoint found = Checkpoint::open(dir.path() / "old");
  ASSERT_EQ(found.tensors().size(), expected.tensors().size());
  for (const TensorInfo& tensor : expected.tensors()) {
    EXPECT_EQ(bytes_of(found, found.at(tensor.name)), bytes_of(expected, tensor)) << tensor.name;
  }
  EXPECT_EQ(read_json(dir.path() / "old/config.json"), read_json(dir.path() / "new/config.json"));
}

}  // namespace
}  // namespace swiftprune
