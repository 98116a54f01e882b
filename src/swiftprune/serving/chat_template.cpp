#include "swiftprune/serving/chat_template.h"

#include <array>
#include <fstream>
#include <iterator>
#include <utility>

#include <nlohmann/json.hpp>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;

// In this order: a template may mention several marks.
constexpr std::array<std::pair<std::string_view, ChatFormat>, 6> kMarks = {{
    {"<|im_start|>", ChatFormat::kChatMl},
    {"<|start_header_id|>", ChatFormat::kLlama3},
    {"<start_of_turn>", ChatFormat::kGemma},
    {"<|end|>", ChatFormat::kPhi3},
    {"[INST]", ChatFormat::kLlama2},
    {"<|user|>", ChatFormat::kZephyr},
}};

std::optional<ChatFormat> recognise(std::string_view text) {
  for (const auto& [mark, format] : kMarks) {
    if (text.find(mark) != std::string_view::npos) return format;
  }
  return std::nullopt;
}

// The template's text: a string, or a list of named ones.
std::string template_of(const nlohmann::json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end()) return "";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::string llama2_text(std::span<const ChatMessage> messages) {
  std::string text;
  std::string system;
  for (const ChatMessage& message : messages) {
    if (message.role == "system") {
      system = "<<SYS>>\n" + message.content + "\n<</SYS>>\n\n";
    } else if (message.role == "user") {
      text += "[INST] " + std::exchange(system, "") + message.content + " [/INST]";
    } else {
      text += " " + message.content + " </s><s>";
    }
  }
  return text;
}

std::string gemma_text(std::span<const ChatMessage> messages) {
  std::string text;
  std::string system;
  for (const ChatMessage& message : messages) {
    if (message.role == "system") {
      system = message.content + "\n\n";
      continue;
    }
    const std::string role = message.role == "assistant" ? "model" : message.role;
    text += "<start_of_turn>" + role + "\n" + std::exchange(system, "") + message.content + "<end_of_turn>\n";
  }
  return text + "<start_of_turn>model\n";
}

// open + role + middle + content + close for every message, then an open one for the answer.
std::string marked_text(std::span<const ChatMessage> messages, const std::string& open,
                        const std::string& middle, const std::string& close) {
  std::string text;
  for (const ChatMessage& message : messages) text += open + message.role + middle + message.content + close;
  return text + open + "assistant" + middle;
}

}  // namespace

std::string_view name_of(ChatFormat format) {
  switch (format) {
    case ChatFormat::kChatMl:
      return "chatml";
    case ChatFormat::kLlama3:
      return "llama3";
    case ChatFormat::kLlama2:
      return "llama2";
    case ChatFormat::kGemma:
      return "gemma";
    case ChatFormat::kPhi3:
      return "phi3";
    case ChatFormat::kZephyr:
      return "zephyr";
  }
  return "?";
}

std::optional<ChatFormat> find_chat_format(const fs::path& folder) {
  if (std::ifstream file(folder / "chat_template.jinja"); file) {
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    if (const auto format = recognise(text)) return format;
  }
  if (fs::exists(folder / "tokenizer_config.json")) {
    const nlohmann::json config = read_json_file(folder / "tokenizer_config.json");
    if (config.is_object()) {
      if (const auto format = recognise(template_of(config))) return format;
    }
  }
  if (!fs::exists(folder / "tokenizer.json")) return std::nullopt;
  const nlohmann::json tokenizer = read_json_file(folder / "tokenizer.json");
  if (!tokenizer.is_object() || !tokenizer.contains("added_tokens")) return std::nullopt;
  return recognise(tokenizer["added_tokens"].dump());
}

ChatText chat_text(ChatFormat format, std::span<const ChatMessage> messages) {
  for (const ChatMessage& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      bad_usage("messages: role: found '{}', expected system, user or assistant", message.role);
  }
  switch (format) {
    case ChatFormat::kChatMl:
      return {marked_text(messages, "<|im_start|>", "\n", "<|im_end|>\n"), "<|im_end|>"};
    case ChatFormat::kLlama3:
      return {"<|begin_of_text|>" +
                  marked_text(messages, "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
              "<|eot_id|>"};
    case ChatFormat::kLlama2:
      return {"<s>" + llama2_text(messages), "</s>"};
    case ChatFormat::kGemma:
      return {"<bos>" + gemma_text(messages), "<end_of_turn>"};
    case ChatFormat::kPhi3:
      return {marked_text(messages, "<|", "|>\n", "<|end|>\n"), "<|end|>"};
    case ChatFormat::kZephyr:
      return {marked_text(messages, "<|", "|>\n", "</s>\n"), "</s>"};
  }
  return {};
}

}  // namespace swiftprune
