// What requests are read for in the fuzzers: a tokenizer of bytes, so that every text has tokens, and a chat template that
// looks at all that a request may bring.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "fuzz_folder.h"
#include "swiftprune/core/json.h"
#include "swiftprune/serving/openai_api.h"

namespace swiftprune::fuzz {

struct ServedModel {
  std::unique_ptr<Tokenizer> tokenizer;
  templates::ChatTemplates chat;
  ApiModel api;
  ApiLimits limits = {.max_prompt_tokens = 2000, .max_tokens = 50, .capacity = 2050, .max_answers = 12};
};

// GPT-2's letters for bytes (text/byte_level.h has the same).
inline std::string letter_of(int byte) {
  static const auto letters = [] {
    std::vector<int> result(256);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool own = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      result[static_cast<std::size_t>(b)] = own ? b : next++;
    }
    return result;
  }();
  const int letter = letters[static_cast<std::size_t>(byte)];
  if (letter < 128) return std::string(1, static_cast<char>(letter));
  return {static_cast<char>(0xC0 | letter >> 6), static_cast<char>(0x80 | (letter & 0x3F))};
}

inline const ServedModel& served_model() {
  static const ServedModel served = [] {
    static const Folder model;
    nlohmann::json vocabulary = {{"<s>", 256}, {"</s>", 257}};
    for (int byte = 0; byte < 256; ++byte) vocabulary[letter_of(byte)] = byte;
    const nlohmann::json tokenizer = {
        {"added_tokens",
         {{{"id", 256}, {"content", "<s>"}, {"special", true}},
          {{"id", 257}, {"content", "</s>"}, {"special", true}}}},
        {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
        {"decoder", {{"type", "ByteLevel"}}},
        {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}};
    model.write("tokenizer.json", tokenizer.dump());
    model.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>"})");
    model.write(
        "chat_template.jinja",
        "{{ bos_token }}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
        "{% for d in documents or [] %}{{ d.title }}{{ d.text }}{% endfor %}{{ mood if mood is defined }}"
        "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content | trim }}"
        "{% else %}{% for part in m.content or [] %}{{ part.text }}{% endfor %}{% endif %}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}");
    auto opened = Tokenizer::open(model.path());
    const Tokenizer& reference = *opened;
    return ServedModel{std::move(opened),
                       *templates::ChatTemplates::open(model.path()),
                       {reference, 258, {257}, std::make_shared<LazyTokenTable>(reference)}};
  }();
  return served;
}

}  // namespace swiftprune::fuzz
