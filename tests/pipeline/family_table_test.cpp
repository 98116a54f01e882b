// What the table of families says for people is what the code does with their tiny models.
#include "swiftprune/model/family_table.h"

#include <gtest/gtest.h>

#include "support/gpu_models.h"
#include "swiftprune/model/config_fields.h"
#include "swiftprune/model/family.h"
#include "swiftprune/structure/block_units.h"

namespace swiftprune {
namespace {

TEST(FamilyTable, HasARowForEachFamilyInItsOrder) {
  ASSERT_EQ(family_rows().size(), all_families().size());
  for (std::size_t i = 0; i < all_families().size(); ++i) {
    EXPECT_EQ(family_rows()[i].family, all_families()[i].name);
    EXPECT_FALSE(family_rows()[i].models.empty()) << all_families()[i].name;
  }
}

TEST(FamilyTable, UnitsAndGpuAreThoseOfTheTinyModels) {
  for (const FamilyRow& row : family_rows()) {
    bool on_gpu = false, has_model = false;
    std::map<std::string_view, bool> removable;
    for (const std::string& name : test::all_model_names()) {
      ModelConfig model = Model::open(test::model_folder(name))->config();
      if (model.family != row.family) continue;
      if (!has_model)
        on_gpu = test::gpu_has(model);  // the first by name is the usual one, others have rare parts
      has_model = true;
      removable["experts"] |= model.has_experts();
      model.num_kv_heads = model.num_heads;  // one alone cannot be taken out of any family
      for (const UnitKind kind : {UnitKind::kMlp, UnitKind::kHeads, UnitKind::kLayers}) {
        removable[name_of(kind)] |= !model.has_experts() && !inseparable(model, kind);
      }
    }
    EXPECT_TRUE(has_model) << row.family;
    EXPECT_EQ(row.on_gpu, on_gpu) << row.family;
    for (const auto& [unit, possible] : removable) {
      EXPECT_EQ(is_in_list(unit, row.units), possible) << row.family << " " << unit;
    }
  }
}

}  // namespace
}  // namespace swiftprune
