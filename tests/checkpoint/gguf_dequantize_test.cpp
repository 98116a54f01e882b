#include "swiftprune/checkpoint/gguf_dequantize.h"

#include <bit>
#include <cstring>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "support/temp_dir.h"

namespace swiftprune {
namespace {

// blocks.bin: type, number of blocks, blocks, their values by the package `gguf`
// (tools/make_gguf_fixtures.py).
TEST(GgufDequantize, EveryTypeGivesTheReferencesBits) {
  const std::string file = test::read_text(SWIFTPRUNE_TEST_DATA "/checkpoint/gguf/blocks.bin");
  std::set<GgmlType> seen;
  std::size_t at = 0;
  while (at < file.size()) {
    std::uint32_t head[2];
    std::memcpy(head, file.data() + at, sizeof(head));
    at += sizeof(head);
    const GgmlTypeTraits* type = find_ggml_type(head[0]);
    ASSERT_NE(type, nullptr);
    const std::size_t num_bytes = head[1] * static_cast<std::size_t>(type->block_bytes);
    std::vector<float> expected(head[1] * static_cast<std::size_t>(type->block_size));
    std::memcpy(expected.data(), file.data() + at + num_bytes, expected.size() * sizeof(float));
    std::vector<float> values(expected.size());
    dequantize(*type, std::as_bytes(std::span(file)).subspan(at, num_bytes), values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]), std::bit_cast<std::uint32_t>(expected[i]))
          << type->name << " value " << i << ": " << values[i] << ", expected " << expected[i];
    }
    at += num_bytes + expected.size() * sizeof(float);
    seen.insert(type->type);
  }
  EXPECT_EQ(seen.size(), 25u);
}

TEST(GgufDequantize, NoBlocks) { dequantize(*find_ggml_type(12), {}, {}); }

TEST(GgufDequantize, NamesOfTypes) {
  EXPECT_EQ(ggml_type_name(14), "Q6_K");
  EXPECT_EQ(ggml_type_name(17), "IQ2_XS");
  EXPECT_EQ(ggml_type_name(15), "Q8_K");
  EXPECT_EQ(ggml_type_name(77), "type 77");
  EXPECT_EQ(find_ggml_type(15), nullptr);
  EXPECT_EQ(find_ggml_type(4), nullptr);  // Q4_2, which was removed from ggml
}

}  // namespace
}  // namespace swiftprune
