#include "swiftprune/templates/chat_template.h"

#include <algorithm>
#include <array>

#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/templates/json_value.h"
#include "swiftprune/templates/methods.h"

namespace swiftprune::templates {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 7> kSpecialTokens = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
constexpr std::array<std::string_view, 3> kReasoningFields = {"reasoning_content", "thinking", "reasoning"};
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";
constexpr std::string_view kDefault = "default";

const Dict& need_dict(const Value& value, std::string_view what) {
  if (const Dict* dict = value.as<Dict>()) return *dict;
  runtime_error("{}: found a value of type '{}', expected an object", what, type_name(value));
}

Value list_of_dicts(const Value* found, std::string_view field) {
  if (found == nullptr || found->is<None>()) return Value();
  if (!found->is<List>())
    runtime_error("{}: found a value of type '{}', expected a list", field, type_name(*found));
  for (const Value& item : *found->sequence()) need_dict(item, field);
  return *found;
}

std::optional<bool> flag(const Dict& body, std::string_view field) {
  const Value* found = body.find(field);
  if (found == nullptr || found->is<None>()) return std::nullopt;
  if (!found->is<bool>()) runtime_error("{}: expected true or false", field);
  return *found->as<bool>();
}

bool among(std::string_view name, const auto& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// As transformers: members that are null are left out, and reasoning is known by its other names too.
Dict normalized_message(const Value& value) {
  DictBuilder plain;
  for (const auto& [key, member] : need_dict(value, "messages").items()) {
    if (!member.is<None>()) plain.set(key, member);
  }
  const Dict message = plain.build();
  const Value* reasoning = nullptr;
  for (const std::string_view field : kReasoningFields) {
    if (reasoning == nullptr) reasoning = message.find(field);
  }
  if (reasoning == nullptr) return message;
  DictBuilder aliased;
  aliased.set("thinking", *reasoning);
  for (const auto& [key, member] : message.items()) aliased.set(key, member);
  aliased.set("reasoning_content", *reasoning);
  return aliased.build();
}

// The last message with the tag behind the text that is continued; that text.
std::string tag_last_message(Dict& message, const std::string& field, std::string_view source) {
  const Value* found = message.find(field);
  if (found == nullptr)
    runtime_error("continue_final_message: the last message has no \"{}\" to continue", field);
  const Value text = *found;
  std::vector<std::string> fields = {field};
  if (among(field, kReasoningFields)) {
    fields.clear();
    for (const std::string_view other : kReasoningFields) {
      const Value* copy = message.find(other);
      if (copy != nullptr && equal(*copy, text)) fields.emplace_back(other);
    }
  }
  if (std::none_of(fields.begin(), fields.end(),
                   [&](const std::string& name) { return source.find(name) != std::string_view::npos; }))
    runtime_error("continue_final_message: the chat template does not read \"{}\"", field);
  DictBuilder tagged(message);
  if (text.is<Text>()) {
    for (const std::string& name : fields) tagged.set(name, Value(*text.text() + std::string(kContinueTag)));
    message = tagged.build();
    return *text.text();
  }
  const Values* parts = text.sequence();
  if (parts == nullptr)
    runtime_error("continue_final_message: \"{}\": expected a text or a list of parts", field);
  for (std::size_t i = parts->size(); i-- > 0;) {
    const Dict* part = (*parts)[i].as<Dict>();
    const Value* part_text = part == nullptr ? nullptr : part->find("text");
    if (part_text == nullptr) continue;
    const std::string final_text = need_text(*part_text, "messages: text").bytes();
    DictBuilder changed(*part);
    changed.set("text", Value(final_text + std::string(kContinueTag)));
    Values all = *parts;
    all[i] = changed.build();
    tagged.set(field, make_list(std::move(all)));
    message = tagged.build();
    return final_text;
  }
  runtime_error("continue_final_message: the last message has no text to continue");
}

// The text up to where the answer goes on.
std::string cut_at_tag(const std::string& rendered, const std::string& final_text) {
  const std::string_view mark = kContinueTag.substr(0, kContinueTag.size() - 1);
  const std::size_t at = rendered.rfind(mark);
  if (at == std::string::npos ||
      rendered.find(stripped(final_text, nullptr, Side::kBoth)) == std::string::npos) {
    runtime_error(
        "continue_final_message: the chat template changes the last message, so that it cannot be continued");
  }
  const std::string_view before = std::string_view(rendered).substr(0, at);
  if (rendered.compare(at, kContinueTag.size(), kContinueTag) == 0) return std::string(before);
  return std::string(stripped(before, nullptr, Side::kRight));
}

const Values* parts_of(const Value& message) {
  const Dict* dict = message.as<Dict>();
  const Value* content = dict == nullptr ? nullptr : dict->find("content");
  return content != nullptr && content->is<List>() ? content->sequence() : nullptr;
}

const std::string* text_of_part(const Value& part) {
  const Dict* dict = part.as<Dict>();
  const Value* text = dict == nullptr ? nullptr : dict->find("text");
  return text == nullptr ? nullptr : text->text();
}

// Nothing: no message has a list of texts.
std::optional<ChatRequest> with_joined_parts(const ChatRequest& request) {
  ChatRequest joined = request;
  bool changed = false;
  for (Value& message : joined.messages) {
    const Values* parts = parts_of(message);
    if (parts == nullptr) continue;
    std::string all;
    for (const Value& part : *parts) {
      const std::string* text = text_of_part(part);
      if (text == nullptr) return std::nullopt;
      if (&part != &parts->front()) all += '\n';
      all += *text;
    }
    DictBuilder builder(*message.as<Dict>());
    builder.set("content", Value(std::move(all)));
    message = Value(builder.build());
    changed = true;
  }
  return changed ? std::optional(std::move(joined)) : std::nullopt;
}

// Every part's text is there, and no list as Python writes it.
bool shows_parts(const std::string& rendered, const ChatRequest& request) {
  for (const Value& message : request.messages) {
    const Values* parts = parts_of(message);
    if (parts == nullptr || parts->empty()) continue;
    // An unfinished last message ends in the middle of its list.
    std::string printed = repr(*message.as<Dict>()->find("content"));
    if (request.continued_field && &message == &request.messages.back())
      printed.resize(printed.rfind(repr_of_text(*text_of_part(parts->back()))));
    if (rendered.find(printed) != std::string::npos) return false;
    for (const Value& part : *parts) {
      if (rendered.find(stripped(*text_of_part(part), nullptr, Side::kBoth)) == std::string::npos)
        return false;
    }
  }
  return true;
}

std::optional<nlohmann::json> read_object(const fs::path& file) {
  if (!fs::is_regular_file(file)) return std::nullopt;
  nlohmann::json json = read_json_file(file);
  if (!json.is_object()) bad_input("{}: expected an object", file.string());
  return json;
}

// The named special tokens of a folder: texts or objects with "content".
std::vector<std::pair<std::string, std::string>> read_special_tokens(const fs::path& folder) {
  std::map<std::string, std::string, std::less<>> tokens;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const auto json = read_object(folder / name);
    if (!json) continue;
    for (const std::string_view token : kSpecialTokens) {
      const auto found = json->find(token);
      if (found == json->end() || tokens.contains(token)) continue;
      if (found->is_string()) tokens.emplace(token, found->get<std::string>());
      if (found->is_object() && found->contains("content") && (*found)["content"].is_string())
        tokens.emplace(token, (*found)["content"].get<std::string>());
    }
  }
  return {tokens.begin(), tokens.end()};
}

}  // namespace

ChatRequest chat_request_of(const Value& value) {
  const Dict& body = need_dict(value, "body");
  ChatRequest request;
  const Value messages = list_of_dicts(body.find("messages"), "messages");
  if (messages.is<None>() || messages.sequence()->empty())
    runtime_error("messages: expected a list of at least one message");
  request.messages = *messages.sequence();
  request.tools = list_of_dicts(body.find("tools"), "tools");
  request.documents = list_of_dicts(body.find("documents"), "documents");
  const Value* continued = body.find("continue_final_message");
  if (continued != nullptr && continued->is<Text>()) {
    if (!continued->text()->empty()) request.continued_field = *continued->text();
  } else if (flag(body, "continue_final_message").value_or(false)) {
    request.continued_field = "content";
  }
  request.add_generation_prompt = flag(body, "add_generation_prompt").value_or(!request.continued_field);
  if (request.continued_field && request.add_generation_prompt)
    runtime_error("continue_final_message and add_generation_prompt cannot both be true");
  const Value* variables = body.find("chat_template_kwargs");
  if (variables != nullptr && !variables->is<None>())
    request.variables = need_dict(*variables, "chat_template_kwargs");
  return request;
}

Value chat_message(std::string_view role, const std::string& content) {
  DictBuilder dict;
  dict.set("role", Value(std::string(role)));
  dict.set("content", Value(content));
  return Value(dict.build());
}

std::optional<ChatTemplates> ChatTemplates::open(const fs::path& folder) {
  ChatTemplates result;
  const auto add = [&](const std::string& name, const fs::path& file, std::string text) {
    result.templates_[name] = {file.string(), std::move(text)};
  };
  if (const fs::path file = folder / "chat_template.jinja"; fs::is_regular_file(file))
    add(std::string(kDefault), file, file_bytes(file));
  if (const fs::path more = folder / "additional_chat_templates"; fs::is_directory(more)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(more)) {
      if (entry.path().extension() == ".jinja")
        add(entry.path().stem().string(), entry.path(), file_bytes(entry.path()));
    }
  }
  result.named_ = result.templates_.size() > 1 ||
                  (result.templates_.size() == 1 && !result.templates_.contains(std::string(kDefault)));
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    if (!result.templates_.empty()) break;
    const fs::path file = folder / name;
    const auto json = read_object(file);
    const auto found = json ? json->find("chat_template") : nlohmann::json::const_iterator{};
    if (!json || found == json->end() || found->is_null()) continue;
    if (found->is_string()) {
      add(std::string(kDefault), file, found->get<std::string>());
      continue;
    }
    const JsonField list(*found, file.string(), "chat_template");
    for (const JsonField& item : list.items())
      add(item.at("name").string(), file, item.at("template").string());
    result.named_ = true;
  }
  if (result.templates_.empty()) return std::nullopt;
  result.special_tokens_ = read_special_tokens(folder);
  return result;
}

ChatTemplates ChatTemplates::from_file(const fs::path& file, const fs::path& folder) {
  ChatTemplates result;
  result.templates_[std::string(kDefault)] = {file.string(), file_bytes(file)};
  result.special_tokens_ = read_special_tokens(folder);
  return result;
}

const ChatTemplates::Source& ChatTemplates::chosen(const ChatRequest& request) const {
  const auto tool_use = templates_.find("tool_use");
  if (named_ && !request.tools.is<None>() && tool_use != templates_.end()) return tool_use->second;
  const auto found = templates_.find(std::string(kDefault));
  if (found == templates_.end())
    runtime_error("the folder has several chat templates and none is the default");
  return found->second;
}

std::string ChatTemplates::render(const ChatRequest& request, const RenderOptions& options) const {
  const Source& source = chosen(request);
  std::vector<Dict> messages;
  for (const Value& message : request.messages) messages.push_back(normalized_message(message));
  std::string final_text;
  if (request.continued_field)
    final_text = tag_last_message(messages.back(), *request.continued_field, source.text);
  DictBuilder context;
  for (const auto& [name, token] : special_tokens_) context.set(name, Value(token));
  for (const auto& [name, value] : request.variables.items()) context.set(name, value);
  for (const char* name : {"messages", "tools", "documents", "add_generation_prompt"}) {
    if (request.variables.find(std::string_view(name)) != nullptr)
      runtime_error("chat_template_kwargs: '{}' is a field of the request itself", name);
  }
  context.set("messages", make_list({messages.begin(), messages.end()}));
  context.set("tools", request.tools);
  context.set("documents", request.documents);
  context.set("add_generation_prompt", Value(request.add_generation_prompt));
  std::string rendered;
  try {
    rendered = Template(source.text).render(context.build(), options);
  } catch (const TemplateError& error) {
    if (error.what_stopped() == TemplateError::Kind::kRaised)
      throw TemplateError(TemplateError::Kind::kRaised,
                          "the chat template refuses this conversation: " + error.message());
    throw TemplateError(error.what_stopped(),
                        fmt::format("chat template {}: {}", source.where, error.what()));
  }
  return request.continued_field ? cut_at_tag(rendered, final_text) : rendered;
}

std::string ChatTemplates::render_parts(const ChatRequest& request, const RenderOptions& options) const {
  const std::optional<ChatRequest> joined = with_joined_parts(request);
  if (!joined) return render(request, options);
  try {
    std::string rendered = render(request, options);
    if (shows_parts(rendered, request)) return rendered;
  } catch (const TemplateError&) {
    // What is wrong with more than the lists comes again below.
  }
  return render(*joined, options);
}

}  // namespace swiftprune::templates
