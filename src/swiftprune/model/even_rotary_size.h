// For families whose classes in transformers cut a head behind its rotated elements: an odd number of them does not fit
// the pairs of the rotation.
#pragma once

#include <cstdint>

#include "swiftprune/core/error.h"
#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {

inline std::int64_t read_even_rotary_size(const ConfigReader& config, std::int64_t head_size,
                                          std::string_view key, double fallback) {
  const std::int64_t size = read_rotary_size(config, head_size, key, fallback);
  if (size % 2 != 0) {
    bad_input("{}: found a fraction that rotates {} elements of a head, expected an even number",
              config.where(key), size);
  }
  return size;
}

}  // namespace swiftprune
