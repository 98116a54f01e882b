// What is said of each family where it is listed for people: `swiftprune families` and docs/models.md, which is its
// output. What follows from code (types, GGUF) is not repeated here; what is written here is tested against the tiny
// models (pipeline/family_table_test.cpp).
#pragma once

#include <span>
#include <string_view>

namespace swiftprune {

struct FamilyRow {
  std::string_view family;        // ModelFamily::name
  std::string_view models;        // what people call them
  std::string_view units;         // that `shrink` can remove: of "mlp heads layers experts"
  bool on_gpu = false;            // has a GPU the forward of the usual ones?
  std::string_view checked = {};  // the real models it was checked with; empty: tiny random ones only
};
std::span<const FamilyRow> family_rows();  // one for each of all_families(), in its order

}  // namespace swiftprune
