#include "swiftprune/export/gguf_mixes.h"

#include <set>

#include <gtest/gtest.h>

namespace swiftprune {
namespace {

GgmlType type_of(const char* mix, const char* tensor, std::int64_t block, std::int64_t columns = 4096,
                 std::int64_t queries_per_key = 1, std::int64_t num_blocks = 32, bool tied = false) {
  return matrix_type(*find_gguf_mix(mix), {.gguf = tensor,
                                           .block = block,
                                           .num_blocks = num_blocks,
                                           .columns = columns,
                                           .queries_per_key = queries_per_key,
                                           .tied = tied})
      .type;
}

std::set<std::int64_t> blocks_with(const char* mix, const char* tensor, GgmlType type,
                                   std::int64_t num_blocks = 32) {
  std::set<std::int64_t> blocks;
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    if (type_of(mix, tensor, b, 4096, 1, num_blocks) == type) blocks.insert(b);
  }
  return blocks;
}

// llama.cpp's rules for the experts' matrices, and for eight experts (checked against its llama_model_quantize).
TEST(GgufMixes, ExpertsAreMlpsAndEightOfThemSpareAttention) {
  const auto of = [](const char* mix, const char* tensor, std::int64_t experts) {
    return matrix_type(
               *find_gguf_mix(mix),
               {.gguf = tensor, .block = 9, .num_blocks = 32, .columns = 4096, .num_experts = experts})
        .type;
  };
  for (const char* down : {"ffn_down", "ffn_down_exps", "ffn_down_shexp"}) {
    EXPECT_EQ(of("q4_k_m", down, 64), GgmlType::kQ6_K) << down;
    EXPECT_EQ(of("q2_k", down, 64), GgmlType::kQ3_K) << down;
  }
  EXPECT_EQ(of("q4_k_m", "ffn_up_exps", 64), GgmlType::kQ4_K);
  EXPECT_EQ(of("q4_k_m", "attn_k", 64), GgmlType::kQ4_K);
  for (const char* tensor : {"attn_k", "attn_v"}) EXPECT_EQ(of("q2_k", tensor, 8), GgmlType::kQ8_0) << tensor;
  EXPECT_EQ(of("q4_k_m", "attn_q", 8), GgmlType::kQ4_K);
  for (const char* mix : {"q2_k", "q3_k", "q3_k_m", "q4_k_s", "q4_k_m"}) {
    EXPECT_EQ(of(mix, "attn_output", 8), GgmlType::kQ5_K) << mix;
  }
  EXPECT_EQ(of("q3_k_l", "attn_output", 8), GgmlType::kQ3_K);
  EXPECT_EQ(of("q5_k_m", "attn_output", 8), GgmlType::kQ5_K);
  EXPECT_EQ(of("f16", "attn_v", 8), GgmlType::kF16);
}

// The blocks of LLaMA-7B that are known to have more bits.
TEST(GgufMixes, SomeMatricesHaveMoreBits) {
  const std::set<std::int64_t> medium = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31};
  EXPECT_EQ(blocks_with("q4_k_m", "attn_v", GgmlType::kQ6_K), medium);
  EXPECT_EQ(blocks_with("q4_k_m", "ffn_down", GgmlType::kQ6_K), medium);
  EXPECT_EQ(blocks_with("q5_k_m", "ffn_down", GgmlType::kQ6_K), medium);
  EXPECT_EQ(blocks_with("q4_k_s", "attn_v", GgmlType::kQ5_K), (std::set<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(blocks_with("q4_k_s", "ffn_down", GgmlType::kQ5_K), (std::set<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(blocks_with("q3_k_m", "attn_v", GgmlType::kQ5_K), (std::set<std::int64_t>{0, 1}));
  EXPECT_EQ(blocks_with("q3_k_m", "ffn_down", GgmlType::kQ5_K), (std::set<std::int64_t>{0, 1}));
  EXPECT_EQ(type_of("q3_k_m", "attn_v", 2), GgmlType::kQ4_K);
  EXPECT_EQ(type_of("q3_k_m", "ffn_down", 2), GgmlType::kQ4_K);
  EXPECT_EQ(type_of("q3_k_m", "attn_output", 9), GgmlType::kQ4_K);
  EXPECT_EQ(type_of("q3_k_l", "attn_output", 9), GgmlType::kQ5_K);
  EXPECT_EQ(type_of("q2_k", "attn_output", 9), GgmlType::kQ3_K);
  EXPECT_EQ(type_of("q2_k", "attn_v", 9), GgmlType::kQ3_K);
  EXPECT_EQ(type_of("q2_k", "attn_v", 9, 4096, 4), GgmlType::kQ4_K);
  EXPECT_EQ(type_of("q2_k", "ffn_gate", 9), GgmlType::kQ2_K);
  EXPECT_EQ(type_of("q4_k_m", "attn_qkv", 0), GgmlType::kQ6_K);
  for (const char* tensor : {"attn_q", "attn_k", "ffn_gate", "ffn_up"}) {
    EXPECT_EQ(type_of("q4_k_m", tensor, 0), GgmlType::kQ4_K) << tensor;
  }
  EXPECT_EQ(type_of("q4_k_m", "attn_v", 21, 8192, 8, 80), GgmlType::kQ6_K);
  EXPECT_EQ(type_of("q4_k_m", "attn_v", 20, 8192, 8, 80), GgmlType::kQ5_K);
  for (const char* mix : {"q4_k", "q3_k", "q5_k", "q4_0"}) {
    for (const char* tensor : {"attn_v", "ffn_down", "attn_output", "ffn_up"}) {
      EXPECT_EQ(type_of(mix, tensor, 0), find_gguf_mix(mix)->base) << mix << " " << tensor;
    }
  }
}

TEST(GgufMixes, TheHeadHasSixBits) {
  for (const char* mix : {"q2_k", "q3_k", "q4_0", "q4_k_m", "q5_1", "q6_k"}) {
    EXPECT_EQ(type_of(mix, "output", -1), GgmlType::kQ6_K) << mix;
    EXPECT_EQ(type_of(mix, "token_embd", -1, 4096, 1, 32, true), GgmlType::kQ6_K) << mix;
    EXPECT_EQ(type_of(mix, "token_embd", -1), find_gguf_mix(mix)->base) << mix;
    EXPECT_EQ(type_of(mix, "output", -1, 576), GgmlType::kQ8_0) << mix;
  }
  EXPECT_EQ(type_of("q8_0", "output", -1), GgmlType::kQ8_0);
  EXPECT_EQ(type_of("bf16", "output", -1), GgmlType::kBF16);
}

TEST(GgufMixes, NarrowRowsTakeSmallerBlocks) {
  const std::pair<const char*, GgmlType> cases[] = {{"q2_k", GgmlType::kQ4_0}, {"q3_k", GgmlType::kQ4_0},
                                                    {"q4_k", GgmlType::kQ5_0}, {"q5_k", GgmlType::kQ5_1},
                                                    {"q6_k", GgmlType::kQ8_0}, {"q4_1", GgmlType::kQ4_1},
                                                    {"q8_0", GgmlType::kQ8_0}};
  for (const auto& [mix, expected] : cases) {
    EXPECT_EQ(type_of(mix, "ffn_up", 0, 576), expected) << mix;
    EXPECT_EQ(type_of(mix, "ffn_up", 0, 40), GgmlType::kF16) << mix;
  }
}

TEST(GgufMixes, Names) {
  EXPECT_EQ(find_gguf_mix("q4_k_xl"), nullptr);
  EXPECT_EQ(find_gguf_mix("Q4_K"), nullptr);
  for (const std::string& name : gguf_mix_names()) EXPECT_EQ(find_gguf_mix(name)->name, name);
  EXPECT_EQ(find_gguf_mix("q4_k_m")->file_type, 15);
}

}  // namespace
}  // namespace swiftprune
