// The "post_processor" of tokenizer.json, for one text: which special tokens stand around its ids.
// post_processors.cpp holds the list.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/text/component.h"

namespace swiftprune::text {

struct SpecialFrame {
  std::vector<std::int32_t> before, after;
};

// Processors that only move offsets (ByteLevel) add nothing. Ids must be below id_end.
SpecialFrame make_special_frame(const JsonField& field, std::int64_t id_end);

}  // namespace swiftprune::text
