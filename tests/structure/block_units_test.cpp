#include "swiftprune/structure/block_units.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "swiftprune/model/model.h"

namespace swiftprune {
namespace {

using test::expect_error;
using ::testing::ElementsAre;

ModelConfig config_of(const std::string& name) {
  return Model::open(std::string(SWIFTPRUNE_TEST_DATA "/model/") + name)->config();
}

TEST(ParseUnits, TakesAnyMix) {
  EXPECT_THAT(parse_units("mlp"), ElementsAre(UnitKind::kMlp));
  EXPECT_THAT(parse_units("layers,mlp,layers"), ElementsAre(UnitKind::kLayers, UnitKind::kMlp));
  for (const char* text : {"", "mlp,", "attention", "mlp;heads"}) {
    expect_error(
        ErrorKind::kUsage, [&] { parse_units(text); }, "--units: found '", "expected mlp, heads, layers");
  }
}

// llama3: 9 query heads of 4 share 3 key heads.
TEST(BlockUnits, SeparateLinears) {
  const ModelConfig m = config_of("llama3");
  const KeptUnits kept{{1, 3}, {0, 2}};
  const std::vector<std::int64_t> q = kept_rows(m, m.blocks.front(), 0, kept);
  ASSERT_EQ(q.size(), 24u);
  EXPECT_EQ(q[11], 11);
  EXPECT_EQ(q[12], 24);
  EXPECT_THAT(kept_rows(m, m.blocks.front(), 1, kept), ElementsAre(0, 1, 2, 3, 8, 9, 10, 11));
  EXPECT_EQ(kept_rows(m, m.blocks.front(), 1, kept), kept_rows(m, m.blocks.front(), 2, kept));
  EXPECT_EQ(kept_columns(m, m.blocks.front(), LinearInput::kAttentionOutput, kept), q);
  EXPECT_EQ(kept_rows(m, m.blocks.front(), 3, kept).size(), 36u);  // o
  EXPECT_THAT(kept_rows(m, m.blocks.front(), 4, kept), ElementsAre(1, 3));
  EXPECT_THAT(kept_rows(m, m.blocks.front(), 5, kept), ElementsAre(1, 3));
  EXPECT_THAT(kept_columns(m, m.blocks.front(), LinearInput::kMlpOutput, kept), ElementsAre(1, 3));
}

TEST(BlockUnits, PartsOfTheBlock) {
  EXPECT_EQ(output_of(LinearInput::kAttention), LinearInput::kAttentionOutput);
  EXPECT_EQ(output_of(LinearInput::kAttentionOutput), LinearInput::kAttentionOutput);
  EXPECT_EQ(output_of(LinearInput::kMlp), LinearInput::kMlpOutput);
  EXPECT_EQ(output_of(LinearInput::kMlpOutput), LinearInput::kMlpOutput);
}

// phi3: 3 heads of 8, key and value heads as many; gate over up with 40 channels.
TEST(BlockUnits, FusedLinears) {
  const ModelConfig m = config_of("phi3");
  const KeptUnits kept{{0, 39}, {2}};
  const std::vector<std::int64_t> rows = kept_rows(m, m.blocks.front(), 0, kept);
  ASSERT_EQ(rows.size(), 24u);
  EXPECT_EQ(rows[0], 16);       // q of head 2
  EXPECT_EQ(rows[8], 24 + 16);  // its key
  EXPECT_EQ(rows[16], 48 + 16);
  EXPECT_THAT(kept_rows(m, m.blocks.front(), 2, kept), ElementsAre(0, 39, 40, 79));
}

// Whatever stands in a block: heads of another size (gemma4), keys taken from elsewhere, a mixer, projections through a
// smaller space (deepseek).
TEST(BlockUnits, WhereAllUnitsStayAllRowsAndColumnsDo) {
  const auto counts_to = [](const std::vector<std::int64_t>& indices, std::int64_t end) {
    for (std::size_t i = 0; i < indices.size(); ++i) {
      if (indices[i] != static_cast<std::int64_t>(i)) return false;
    }
    return std::ssize(indices) == end;
  };
  for (const std::string& name : test::all_model_names()) {
    const ModelConfig m = Model::open(test::model_folder(name))->config();
    const KeptUnits kept = all_units(m);
    for (const BlockConfig& block : m.blocks) {
      const std::vector<LinearTensors> linears = linears_of(block);
      for (std::size_t i = 0; i < linears.size(); ++i) {
        EXPECT_TRUE(counts_to(kept_rows(m, block, i, kept), linears[i].outputs))
            << name << " " << linears[i].name;
        if (!is_output(linears[i].input)) continue;
        EXPECT_TRUE(counts_to(kept_columns(m, block, linears[i], kept), linears[i].inputs))
            << name << " " << linears[i].name;
      }
    }
  }
}

TEST(BlockUnits, NamesWhatIsInseparable) {
  for (const char* name : {"pythia", "opt"}) {
    const auto reason = inseparable(config_of(name), UnitKind::kHeads);
    ASSERT_TRUE(reason.has_value());
    EXPECT_THAT(*reason, ::testing::HasSubstr("has no head_dim in config.json"));
    EXPECT_EQ(inseparable(config_of(name), UnitKind::kMlp), std::nullopt);
    EXPECT_EQ(inseparable(config_of(name), UnitKind::kLayers), std::nullopt);
  }
  EXPECT_THAT(*inseparable(config_of("mistral"), UnitKind::kHeads),
              ::testing::HasSubstr("all 3 query heads share one key head"));
  EXPECT_THAT(*inseparable(config_of("phi3_longrope"), UnitKind::kHeads), ::testing::HasSubstr("longrope"));
  EXPECT_EQ(inseparable(config_of("llama3"), UnitKind::kHeads), std::nullopt);
}

}  // namespace
}  // namespace swiftprune
