// Messages of a conversation as the text that a model was trained on. The templates of model folders are
// programs (Jinja); the common ones are recognised by the marks they write and written here by hand.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace swiftprune {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

enum class ChatFormat {
  kChatMl,  // <|im_start|>role\n...<|im_end|>\n (Qwen, SmolLM)
  kLlama3,  // <|start_header_id|>role<|end_header_id|>\n\n...<|eot_id|>
  kLlama2,  // [INST] <<SYS>>...<</SYS>> ... [/INST] (also Mistral, without the system part)
  kGemma,   // <start_of_turn>user\n...<end_of_turn>\n
  kPhi3,    // <|user|>\n...<|end|>\n
  kZephyr,  // <|user|>\n...</s>\n
};
std::string_view name_of(ChatFormat format);

// From chat_template of tokenizer_config.json or chat_template.jinja, else from the special tokens that the
// tokenizer knows; nothing when none is recognised.
std::optional<ChatFormat> find_chat_format(const std::filesystem::path& folder);

struct ChatText {
  std::string text;       // with special tokens spelled out; ends where the assistant's answer begins
  std::string end_token;  // ends an answer
};
// Throws Error{kUsage} for a role that the format has not.
ChatText chat_text(ChatFormat format, std::span<const ChatMessage> messages);

}  // namespace swiftprune
