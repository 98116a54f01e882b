// Names of other makers: the same tensors under the names of the family's causal model.
#include "swiftprune/checkpoint/tensor_names.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "swiftprune/checkpoint/text_tower.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using Names = std::vector<std::string>;

Names unified(const json& config, const Names& names, std::size_t num_notes = 1) {
  std::vector<TensorInfo> tensors;
  for (const std::string& name : names) tensors.push_back({name, DType::kF32, {1}, "f", 0, 4});
  EXPECT_EQ(unify_names(config, "folder", tensors).size(), num_notes);
  Names result;
  for (const TensorInfo& tensor : tensors) result.push_back(tensor.name);
  return result;
}

const json kLlama = {{"model_type", "llama"}};
const Names kUsual = {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight",
                      "lm_head.weight"};

TEST(TensorNames, UsualNamesStay) {
  EXPECT_EQ(unified(kLlama, kUsual, 0), kUsual);
  EXPECT_EQ(unified({{"model_type", "unknown"}}, {"layers.0.x"}, 0), Names{"layers.0.x"});
}

TEST(TensorNames, OfTheBaseModelAndOfModelsThatSee) {
  EXPECT_EQ(unified(kLlama,
                    {"embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight", "lm_head.weight"}),
            kUsual);
  for (const std::string body : {"language_model.model.", "model.language_model.", "model.model."}) {
    EXPECT_EQ(unified(kLlama, {body + "embed_tokens.weight", body + "layers.0.mlp.up_proj.weight",
                               body + "norm.weight", "lm_head.weight"}),
              kUsual)
        << body;
  }
  EXPECT_EQ(unified({{"model_type", "opt"}}, {"decoder.embed_tokens.weight", "decoder.layers.0.fc1.weight"}),
            (Names{"model.decoder.embed_tokens.weight", "model.decoder.layers.0.fc1.weight"}));
  EXPECT_EQ(
      unified({{"model_type", "gpt_neox"}}, {"embed_in.weight", "layers.0.mlp.weight", "embed_out.weight"}),
      (Names{"gpt_neox.embed_in.weight", "gpt_neox.layers.0.mlp.weight", "embed_out.weight"}));
}

TEST(TensorNames, Gemma3BesideItsVisionModel) {
  const json config = {{"model_type", "gemma3"}, {"text_config", json::object()}};
  EXPECT_EQ(unified(config, {"model.language_model.embed_tokens.weight", "model.language_model.layers.0.x",
                             "model.vision_tower.y", "lm_head.weight"}),
            (Names{"language_model.model.embed_tokens.weight", "language_model.model.layers.0.x",
                   "vision_tower.y", "language_model.lm_head.weight"}));
}

TEST(TensorNames, EveryTextTower) {
  for (const TextTower& tower : text_towers()) {
    const json config = {{"model_type", tower.model_type}, {"text_config", json::object()}};
    const Names text = {"model.embed_tokens.weight", "model.layers.0.x", "lm_head.weight"};
    Names own;
    for (const std::string& name : text) {
      own.push_back(tower_tensor_name(tower, name));
      EXPECT_EQ(text_tensor_name(tower, own.back()), name);
    }
    EXPECT_EQ(unified(config, own, 0), own) << tower.model_type;
    EXPECT_EQ(text_tensor_name(tower, "vision_tower.layers.0.x"), std::nullopt);
    for (const std::string body : {"model.language_model.", "language_model.model."}) {
      EXPECT_EQ(unified(config, {body + "embed_tokens.weight", body + "layers.0.x", "lm_head.weight"},
                        body == tower.body ? 0 : 1)[0],
                own[0])
          << tower.model_type;
    }
  }
}

TEST(TensorNames, TheHeadAloneIsTheEmbedding) {
  const Names alone = {"model.layers.0.x", "lm_head.weight"};
  EXPECT_EQ(unified(kLlama, alone), (Names{"model.layers.0.x", "model.embed_tokens.weight"}));
  const json untied = {{"model_type", "llama"}, {"tie_word_embeddings", false}};
  EXPECT_EQ(unified(untied, alone, 0), alone) << "the embedding is missed later";
}

TEST(TensorNames, WhatCannotBeToldApartIsRefused) {
  const auto expect_bad = [](const Names& names, const std::string& message) {
    test::expect_error(
        ErrorKind::kBadInput, [&] { unified(kLlama, names); }, message);
  };
  expect_bad({"language_model.model.layers.0.x", "layers.0.x"},
             "folder: found tensors named language_model.model.layers.* and layers.*");
  expect_bad({"embed_tokens.weight", "layers.0.x", "lm_head.weight", "language_model.lm_head.weight"},
             "two tensors for lm_head.weight");
}

}  // namespace
}  // namespace swiftprune
