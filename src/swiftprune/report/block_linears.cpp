#include "swiftprune/report/block_linears.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/stored_weights.h"

namespace swiftprune {
namespace {

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace

std::string with_block_star(std::string_view tensor) {
  std::string starred;
  std::string_view before;
  bool in_block = false;
  for (std::size_t begin = 0; begin <= tensor.size();) {
    const std::size_t end = std::min(tensor.find('.', begin), tensor.size());
    const std::string_view part = tensor.substr(begin, end - begin);
    const bool starts = is_number(part) && (!in_block || before == "experts");
    in_block |= starts;
    starred += starts ? std::string_view("*") : part;
    if (end < tensor.size()) starred += '.';
    before = part;
    begin = end + 1;
  }
  return starred;
}

std::set<std::string> block_linear_names(const Checkpoint& checkpoint) {
  std::set<std::string> names;
  try {
    for (const BlockWeight& weight : block_weights(model_config(checkpoint.config())))
      names.insert(weight.name());
    return names;
  } catch (const Error&) {
    // Not a model that swiftprune computes with; its files can be looked at all the same.
  }
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    const bool is_matrix = tensor.shape.size() == 2 && is_weight_dtype(tensor.dtype);
    if (is_matrix && tensor.name.ends_with(".weight") && with_block_star(tensor.name) != tensor.name) {
      names.insert(tensor.name);
    }
  }
  return names;
}

}  // namespace swiftprune
