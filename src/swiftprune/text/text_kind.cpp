#include "swiftprune/text/text_kind.h"

#include <algorithm>
#include <numeric>

namespace swiftprune {
namespace {

constexpr std::string_view kTurns[] = {"<|im_start|>",    "<|start_header_id|>", "<|user|>", "<|assistant|>",
                                       "<|start|>",       "<start_of_turn>",     "[INST]",   "[/INST]",
                                       "\nUser:",         "\nAssistant:",        "\nHuman:", "\nSystem:",
                                       "### Instruction", "### Response"};
constexpr std::string_view kCodeBytes = "{}()[];=<>_/\\*&|+#";
constexpr double kLeastCode = 0.05;
constexpr int kLeastTurns = 2;

bool is_chat(std::string_view text) {
  int turns = 0;
  for (const std::string_view mark : kTurns) {
    // A text that begins with a mark of a line has it, too.
    if (mark.front() == '\n' && text.starts_with(mark.substr(1))) ++turns;
    for (auto at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + mark.size())) {
      if (++turns >= kLeastTurns) return true;
    }
  }
  return turns >= kLeastTurns;
}

}  // namespace

std::string_view name_of(TextKind kind) {
  constexpr std::string_view kNames[] = {"prose", "code", "chat"};
  return kNames[static_cast<std::size_t>(kind)];
}

TextKind text_kind(std::string_view text) {
  if (is_chat(text)) return TextKind::kChat;
  const auto blanks = std::count_if(text.begin(), text.end(),
                                    [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; });
  const auto code = std::count_if(text.begin(), text.end(),
                                  [](char c) { return kCodeBytes.find(c) != std::string_view::npos; });
  const auto written = static_cast<double>(text.size()) - static_cast<double>(blanks);
  return written > 0.0 && static_cast<double>(code) >= kLeastCode * written ? TextKind::kCode
                                                                            : TextKind::kProse;
}

void TextKinds::add(std::string_view text) {
  bytes_[static_cast<std::size_t>(text_kind(text))] += static_cast<double>(text.size());
}

double TextKinds::share(TextKind kind) const {
  const double total = std::accumulate(bytes_.begin(), bytes_.end(), 0.0);
  return total > 0.0 ? bytes_[static_cast<std::size_t>(kind)] / total : 0.0;
}

const TextKind* TextKinds::only() const {
  constexpr double kAll = 0.9;
  const auto* found = std::find_if(std::begin(kTextKinds), std::end(kTextKinds),
                                   [this](TextKind kind) { return share(kind) > kAll; });
  return found == std::end(kTextKinds) ? nullptr : found;
}

}  // namespace swiftprune
