// Token ids, one after the other, as the text that each adds to what stood before: decode(prompt + answer)
// beyond decode(prompt). A token may end inside a UTF-8 character, which then waits for the next.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

class TextStream {
 public:
  // prompt: what the tokens follow. Decoders treat the start of a text differently (LLaMA's takes a space
  // away there), so a text that goes on is not decoded on its own.
  explicit TextStream(const Tokenizer& tokenizer, std::span<const std::int32_t> prompt = {});
  std::string add(std::int32_t id);
  // What add(id) would give, were it the last: an incomplete character as U+FFFD.
  std::string peek(std::int32_t id) const;
  // What still waits, at the end of the stream.
  std::string rest();

 private:
  std::string decoded() const;  // from context_ to the end
  std::string take(const std::string& after);

  const Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;
  std::size_t context_ = 0;  // decoding starts here
  std::size_t shown_;        // ids whose text was given out
  std::string before_;       // text of [context_, shown_)
};

}  // namespace swiftprune
