// What kind of text it is, by a plain measure: enough to say that all of a calibration text is of one kind, no more.
#pragma once

#include <array>
#include <string_view>

namespace swiftprune {

enum class TextKind { kProse, kCode, kChat };
inline constexpr TextKind kTextKinds[] = {TextKind::kProse, TextKind::kCode, TextKind::kChat};
std::string_view name_of(TextKind kind);  // "prose"

// Chat: two or more marks of turns (those of chat templates, "User:", "### Response"). Else code: of the bytes that are
// no blanks, 5 % or more are one of {}()[];=<>_/\*&|+#, more than in 499 of 500 pieces of C4 and fewer than in nineteen
// of twenty of C++, Perl and shell. Else prose.
TextKind text_kind(std::string_view text);

// How much of a text is of each kind, by bytes.
class TextKinds {
 public:
  void add(std::string_view text);
  double share(TextKind kind) const;
  // The kind that all but a tenth is of; null: there are several, or no text.
  const TextKind* only() const;

 private:
  std::array<double, std::size(kTextKinds)> bytes_{};
};

}  // namespace swiftprune
