#include "swiftprune/report/prune_record.h"

#include <algorithm>
#include <sstream>

#include <nlohmann/json.hpp>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

// The member `key` of `object`; `where` is the path to the object for messages.
const nlohmann::json& member(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) bad_input("{}: field {} is missing", where, key);
  return *found;
}

std::int64_t extent(const nlohmann::json& object, const char* key, const std::string& where) {
  const nlohmann::json& value = member(object, key, where);
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::uint64_t{1} << 31) {
    bad_input("{}: field {}: expected a number of {}", where, key, key);
  }
  return value;
}

// "2 0 1": a permutation of 0 .. cols-1
std::vector<std::int64_t> read_order(const nlohmann::json& value, std::int64_t cols,
                                     const std::string& where) {
  std::vector<std::int64_t> order;
  if (value.is_string()) {
    std::istringstream numbers(value.get<std::string>());
    for (std::int64_t number = 0; numbers >> number;) order.push_back(number);
    if (!numbers.eof()) order.clear();
  }
  std::vector<std::int64_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  for (std::int64_t p = 0; p < std::ssize(sorted); ++p) {
    if (sorted[static_cast<std::size_t>(p)] != p) sorted.clear();
  }
  if (sorted.empty() || std::ssize(sorted) != cols)
    bad_input("{}: field channel_order: expected the numbers 0 to {}, each once", where, cols - 1);
  return order;
}

RecordedTensor read_tensor(const nlohmann::json& object, const std::string& where) {
  if (!object.is_object()) bad_input("{}: expected an object", where);
  RecordedTensor tensor;
  const nlohmann::json& name = member(object, "name", where);
  const nlohmann::json& pattern = member(object, "pattern", where);
  if (!name.is_string() || has_control_characters(name.get_ref<const std::string&>())) {
    bad_input("{}: field name: expected a tensor's name", where);
  }
  if (!pattern.is_string()) bad_input("{}: field pattern: expected a string", where);
  tensor.name = name;
  tensor.rows = extent(object, "rows", where);
  tensor.cols = extent(object, "cols", where);
  try {
    tensor.pattern = parse_pattern(pattern.get_ref<const std::string&>());
  } catch (const Error& error) {
    bad_input("{}: field {}", where, error.what());
  }
  if (const auto sparsity = object.find("sparsity"); sparsity != object.end()) {
    if (!sparsity->is_number() || !(sparsity->get<double>() >= 0.0 && sparsity->get<double>() <= 1.0)) {
      bad_input("{}: field sparsity: found {}, expected 0 to 1", where, sparsity->dump());
    }
    tensor.sparsity = *sparsity;
  }
  if (const auto order = object.find("channel_order"); order != object.end())
    tensor.order = read_order(*order, tensor.cols, where);
  if (object.contains("low_rank")) tensor.low_rank = extent(object, "low_rank", where);
  return tensor;
}

std::map<std::string, std::string> read_input(const nlohmann::json& input, const std::string& where) {
  std::map<std::string, std::string> hashes;
  if (!input.is_object()) bad_input("{}: field input: expected an object of hashes", where);
  for (const auto& [file, hash] : input.items()) {
    if (!hash.is_string()) bad_input("{}: field input: {}: expected a hash", where, file);
    hashes.emplace(file, hash.get<std::string>());
  }
  return hashes;
}

}  // namespace

bool PruneRecord::has_low_rank() const {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const RecordedTensor& tensor) { return tensor.low_rank > 0; });
}

std::optional<PruneRecord> read_prune_record(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "swiftprune.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  const nlohmann::json document = read_json_file(path);
  const std::string file = path.string();
  if (!document.is_object()) bad_input("{}: expected an object", file);
  PruneRecord record;
  const nlohmann::json& changed = member(document, "weights_changed", file);
  if (!changed.is_boolean()) bad_input("{}: field weights_changed: expected true or false", file);
  record.weights_changed = changed;
  if (const auto method = document.find("method"); method != document.end() && method->is_string()) {
    record.method = *method;
  }
  for (const nlohmann::json* step = &document; step != nullptr && step->is_object();) {
    if (const auto input = step->find("input"); input != step->end())
      record.inputs.push_back(read_input(*input, file));
    const auto previous = step->find("previous");
    step = previous == step->end() ? nullptr : &*previous;
  }
  const nlohmann::json& tensors = member(document, "tensors", file);
  if (!tensors.is_array()) bad_input("{}: field tensors: expected a list", file);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    record.tensors.push_back(read_tensor(tensors[i], fmt::format("{}: tensors[{}]", file, i)));
  }
  return record;
}

}  // namespace swiftprune
