// What becomes of every field of a config.json: each family lists those that it reads; of the others some
// change nothing that is computed here, some would (and are refused by name unless they hold the value that
// changes nothing), and the rest is told to the user. So no field is left aside without a word.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/model/config_reader.h"

namespace swiftprune {

// A field that would change what a family computes that does not read it. null and absence change nothing.
struct NeutralField {
  std::string_view name;
  std::string_view values;  // JSON values that change nothing, separated by spaces; "" : none but null
};
std::span<const NeutralField> neutral_fields();

// fields: the names that the family reads, separated by spaces. Throws Error{kBadInput} naming the field;
// adds to notes (may be null) the fields that nothing is known of.
void check_fields(const ConfigReader& config, std::string_view family, std::string_view fields,
                  std::vector<std::string>* notes);

bool is_in_list(std::string_view word, std::string_view list);  // of words separated by spaces

}  // namespace swiftprune
