// Token ids, one after the other, as the text that each adds. A token may end inside a UTF-8 character, which
// then waits for the next.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string add(std::int32_t id);
  // What still waits, at the end of the stream.
  std::string rest();

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;
  std::size_t shown_ = 0;    // ids whose text was given out
  std::size_t context_ = 0;  // decoding starts here: some tokens read differently at the start of a text
};

}  // namespace swiftprune
