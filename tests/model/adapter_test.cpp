// LoRA folders that PEFT wrote (tests/data/adapter, tools/make_adapter_fixtures.py): the logits that PEFT computes, and one
// message for whatever is no plain LoRA of the model or damaged.
#include "swiftprune/model/adapter.h"

#include <cstring>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "support/logits.h"
#include "support/temp_dir.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/model_features.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_error;
using ::testing::HasSubstr;

const fs::path kAdapters = SWIFTPRUNE_TEST_DATA "/adapter";
constexpr double kAdapterTolerance = 1e-4;

Matrix expected_logits(const std::string& name) {
  const fs::path path = kAdapters / name / "expected.safetensors";
  const MappedFile file(path);
  const SafetensorsHeader header = parse_safetensors(file.bytes(), name);
  const TensorInfo& tensor = header.tensors.at(0);
  Matrix logits(tensor.numel() / tensor.shape.back(), tensor.shape.back());
  std::memcpy(logits.data(), file.bytes().data() + header.data_begin + tensor.begin,
              static_cast<std::size_t>(tensor.num_bytes()));
  return logits;
}

class AdapterOf : public ::testing::TestWithParam<std::string> {
 protected:
  std::string model_folder() const { return test::kModels / GetParam(); }
  std::unique_ptr<Model> model_ = Model::open(model_folder(), kAdapters / GetParam());
  TokenWindows windows_ = test::Expected(GetParam()).windows();
  Matrix logits_ = expected_logits(GetParam());
};

TEST_P(AdapterOf, GivesTheLogitsOfPeft) {
  const auto cpu = make_cpu_backend(), reference = make_reference_backend();
  for (const Backend* backend : {cpu.get(), reference.get()}) {
    EXPECT_LE(test::max_difference(test::logits_of(*model_, *backend, windows_, ComputeType::kF32).view(),
                                   logits_.view()),
              kAdapterTolerance)
        << backend->name();
  }
  const auto without = Model::open(model_folder());
  EXPECT_GT(test::max_difference(test::logits_of(*without, *cpu, windows_, ComputeType::kF32).view(),
                                 logits_.view()),
            0.1);
  EXPECT_LE(test::max_difference(test::logits_of(*model_, *cpu, windows_, ComputeType::kBF16).view(),
                                 logits_.view()),
            0.5);
}

// Token by token beside weights that stay compact.
TEST_P(AdapterOf, GivesThemWhenItGenerates) {
  const auto backend = make_cpu_backend();
  Generator generator(*model_, *backend, ComputeType::kF32, 1, windows_.seqlen, nullptr);
  const auto ids = windows_.window(0);
  for (std::int64_t t = 0; t < windows_.seqlen; ++t) {
    const ConstMatrixView found = generator.append(ids.subspan(static_cast<std::size_t>(t), 1));
    EXPECT_LE(test::max_difference(found, std::as_const(logits_).view().row_block(t, 1)), kAdapterTolerance)
        << t;
  }
}

TEST_P(AdapterOf, IsAFeatureOfTheModel) {
  EXPECT_TRUE(features_of(model_->config()).contains(ModelFeature::kAdapter));
  EXPECT_FALSE(features_of(Model::open(model_folder())->config()).contains(ModelFeature::kAdapter));
  EXPECT_GT(model_->adapter()->num_linears(), 0);
  EXPECT_EQ(model_->adapter()->num_bytes(), 4 * model_->adapter()->num_parameters());
}

INSTANTIATE_TEST_SUITE_P(Peft, AdapterOf, ::testing::ValuesIn(test::names_in(kAdapters)),
                         [](const auto& test) { return test.param; });

class DamagedAdapter : public ::testing::Test {
 protected:
  DamagedAdapter() {
    fs::copy(kAdapters / "llama3", folder());
    config_ = json::parse(test::read_text(folder() / kAdapterConfigFile));
  }
  fs::path folder() const { return dir_.path() / "adapter"; }
  void expect_refused(std::initializer_list<std::string> texts) {
    test::write_text(folder() / kAdapterConfigFile, config_.dump());
    expect_error(
        ErrorKind::kBadInput, [&] { static_cast<void>(Model::open(test::kModels / "llama3", folder())); },
        texts);
  }
  void expect_field_refused(const char* field, const json& value, std::initializer_list<std::string> texts) {
    const json before = config_;
    config_[field] = value;
    expect_refused(texts);
    config_ = before;
  }
  // Other names in the header, of the same length.
  void rename(const std::string& from, const std::string& to) {
    std::string content = test::read_text(folder() / kAdapterFile);
    const std::size_t at = content.find(from);
    ASSERT_NE(at, std::string::npos);
    ASSERT_EQ(from.size(), to.size());
    content.replace(at, from.size(), to);
    test::write_text(folder() / kAdapterFile, content);
  }

  test::TempDir dir_;
  json config_;
};

TEST_F(DamagedAdapter, WhatIsNoPlainLoraIsNamed) {
  expect_field_refused("peft_type", "IA3", {"adapter_config.json", "peft_type", "IA3", "LORA"});
  expect_field_refused("task_type", "SEQ_CLS", {"task_type", "SEQ_CLS", "CAUSAL_LM"});
  expect_field_refused("use_dora", true, {"use_dora", "plain LoRA", "merge_and_unload"});
  expect_field_refused("bias", "all", {"bias", "all", "plain LoRA"});
  expect_field_refused("lora_bias", true, {"lora_bias"});
  expect_field_refused("modules_to_save", {"lm_head"}, {"modules_to_save", "lm_head"});
  expect_field_refused("layer_replication", {{0, 2}}, {"layer_replication"});
  expect_field_refused("what_comes_next", {{"some", 1}}, {"what_comes_next", "plain LoRA"});
  expect_field_refused("init_lora_weights", "pissa_niter_4", {"init_lora_weights", "pissa_niter_4"});
  expect_field_refused("r", 0, {"r: found 0"});
  expect_field_refused("r", "4", {"r: found"});
  expect_field_refused("lora_alpha", "x", {"lora_alpha"});
  expect_field_refused("alpha_pattern", {{"q_proj$|k_proj", 2}}, {"alpha_pattern", "q_proj$|k_proj"});
  expect_field_refused("alpha_pattern", {1}, {"alpha_pattern"});
  expect_field_refused("rank_pattern", json::object(), {"lora_A", "found shape"});
  config_ = json::array();
  expect_refused({"adapter_config.json", "object"});
}

TEST_F(DamagedAdapter, FilesThatAreMissingOrDamagedAreNamed) {
  const std::string whole = test::read_text(folder() / kAdapterFile);
  for (std::size_t size :
       {std::size_t{0}, std::size_t{7}, std::size_t{40}, whole.size() / 2, whole.size() - 1}) {
    test::write_text(folder() / kAdapterFile, whole.substr(0, size));
    expect_refused({kAdapterFile});
  }
  test::write_text(folder() / kAdapterFile, whole + "x");
  expect_refused({kAdapterFile});
  fs::remove(folder() / kAdapterFile);
  expect_refused({"found no adapter_model.safetensors", "PEFT"});
  test::write_text(folder() / "adapter_model.bin", "x");
  expect_refused({"adapter_model.bin is not read"});
  fs::remove(folder() / kAdapterConfigFile);
  expect_error(ErrorKind::kBadInput,
               [&] { static_cast<void>(Model::open(test::kModels / "llama3", folder())); },
               {"adapter_config.json"});
}

TEST_F(DamagedAdapter, TensorsThatAreNotOfTheModelAreNamed) {
  rename("layers.1.mlp.up_proj.lora_A.weight", "layers.9.mlp.up_proj.lora_A.weight");
  expect_refused({"layers.9.mlp.up_proj", "linear of this model", "layers.0.mlp.down_proj"});
  rename("layers.9.mlp.up_proj.lora_A.weight", "layers.1.mlp.up_proj.lora_C.weight");
  expect_refused({"lora_C", "another kind of tensor"});
  rename("layers.1.mlp.up_proj.lora_C.weight", "layers.1.mlp.upx.lora_embedding_Ax");
  expect_refused({"lora_embedding_A", "a part of an embedding"});
}

TEST_F(DamagedAdapter, ShapesOfAnotherModelAreNamed) {
  expect_error(ErrorKind::kBadInput,
               [&] { static_cast<void>(Model::open(test::kModels / "llama2", folder())); },
               {kAdapterFile, "found shape", "expected ["});
}

TEST_F(DamagedAdapter, NumbersThatAreNotFiniteAreNamed) {
  std::string content = test::read_text(folder() / kAdapterFile);
  content.replace(content.size() - 4, 4, std::string("\x00\x00\xc0\x7f", 4));
  test::write_text(folder() / kAdapterFile, content);
  const auto model = Model::open(test::kModels / "llama3", folder());
  expect_error(ErrorKind::kBadInput,
               [&] {
                 for (std::int64_t layer = 0; layer < model->config().num_layers(); ++layer)
                   static_cast<void>(model->load_block(layer));
               },
               {kAdapterFile, "nan", "finite"});
}

// Any byte of the header: an error or a model, nothing else.
TEST_F(DamagedAdapter, AnyByteMayBeWrong) {
  const std::string whole = test::read_text(folder() / kAdapterFile);
  std::uint64_t header = 0;
  std::memcpy(&header, whole.data(), sizeof(header));
  for (std::size_t at = 0; at < 8 + header; at += 3) {
    std::string content = whole;
    content[at] = static_cast<char>(content[at] ^ 0x15);
    test::write_text(folder() / kAdapterFile, content);
    const auto error =
        test::error_of([&] { static_cast<void>(Model::open(test::kModels / "llama3", folder())); });
    if (error) {
      EXPECT_EQ(error->kind(), ErrorKind::kBadInput) << error->what();
    }
  }
}

TEST(AdapterBesideAModel, IsToldOfWhenItIsNotUsed) {
  test::TempDir dir;
  fs::copy(test::kModels / "llama3", dir.path() / "model");
  fs::copy(kAdapters / "llama3", dir.path() / "model" / kAdapterFolder);
  const auto notes_of = [&](const fs::path& adapter) {
    return ::testing::PrintToString(Model::open(dir.path() / "model", adapter)->notes());
  };
  EXPECT_THAT(notes_of({}), HasSubstr("is not used"));
  EXPECT_THAT(notes_of({}), HasSubstr("--adapter"));
  EXPECT_THAT(notes_of(dir.path() / "model" / kAdapterFolder), ::testing::Not(HasSubstr("is not used")));
}

}  // namespace
}  // namespace swiftprune
