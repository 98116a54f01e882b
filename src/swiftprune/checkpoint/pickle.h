// Python's pickle as torch.save writes it (protocols 2 to 4), read as data: a pickle is a program, and this
// one is not run. Opcodes and names that a file of tensors does not need are refused by name; the few that it
// needs (tensors, parameters, storages, OrderedDict) become values of their own kind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace swiftprune {

// Values refer to each other by index, so that hostile files can make circles but no endless structures.
struct PickleValue {
  enum class Kind {
    kNone,
    kBoolean,
    kInteger,
    kNumber,
    kString,
    kTuple,
    kList,
    kDict,     // items: key, value, key, value, ...
    kGlobal,   // text: "torch.FloatStorage"
    kStorage,  // items: type, key, location, number of elements, ...
    kTensor,   // items: storage, first element, shape, strides, ...
    kMark,
  };
  Kind kind = Kind::kNone;
  std::int64_t integer = 0;
  std::string text{};
  std::vector<std::int32_t> items{};
};

struct Pickle {
  std::vector<PickleValue> values;
  std::int32_t root = 0;
  std::size_t num_bytes = 0;  // of the input, up to and with STOP

  const PickleValue& at(std::int32_t index) const { return values[static_cast<std::size_t>(index)]; }
};

// Throws Error{kBadInput} that starts with `name`.
Pickle parse_pickle(std::span<const std::byte> bytes, const std::string& name);

}  // namespace swiftprune
