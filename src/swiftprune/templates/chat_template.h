// A model folder's chat template, found and applied as transformers 5 does (tokenization_utils_base.py,
// chat_template_utils.py): which file, which of several templates, what the template sees, how an unfinished
// last message is continued.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "swiftprune/templates/template.h"

namespace swiftprune::templates {

// A conversation as the template sees it.
struct ChatRequest {
  Values messages;  // dicts
  Value tools;      // None, or a list of dicts
  Value documents;  // None, or a list of dicts
  bool add_generation_prompt = true;
  // The field of the last message that the answer continues: "content" for continue_final_message = true.
  std::optional<std::string> continued_field;
  Dict variables;  // chat_template_kwargs
};
// The fields messages, tools, documents, add_generation_prompt, continue_final_message and
// chat_template_kwargs of a request's body. Throws TemplateError{kRuntime} naming the field.
ChatRequest chat_request_of(const Value& body);

// One message: {"role": role, "content": content}.
Value chat_message(std::string_view role, const std::string& content);

class ChatTemplates {
 public:
  // chat_template.jinja with additional_chat_templates/*.jinja, else chat_template of tokenizer_config.json
  // (a text or a list of named ones), else chat_template.json. Nothing: the folder has none. Templates are
  // parsed when they are used: one that cannot be read is an error of the request. Throws Error{kBadInput}
  // for files that cannot be read.
  static std::optional<ChatTemplates> open(const std::filesystem::path& folder);
  // One template from a file, with the folder's special tokens.
  static ChatTemplates from_file(const std::filesystem::path& file, const std::filesystem::path& folder);

  // Throws TemplateError with the template's name, but for what the template itself refuses.
  std::string render(const ChatRequest& request, const RenderOptions& options = {}) const;
  // Where contents are lists of parts of the type text, many templates know texts alone: transformers prints
  // such a list as Python writes it, or nothing, or fails. They get the parts' texts joined by line ends, as
  // vLLM and llama.cpp do; templates that go through the parts get the lists.
  std::string render_parts(const ChatRequest& request, const RenderOptions& options = {}) const;

 private:
  struct Source {
    std::string where;  // for messages
    std::string text;
  };
  const Source& chosen(const ChatRequest& request) const;

  std::map<std::string, Source> templates_;  // by name; "default"
  bool named_ = false;                       // several: "tool_use" is taken for requests with tools
  std::vector<std::pair<std::string, std::string>> special_tokens_;
};

}  // namespace swiftprune::templates
