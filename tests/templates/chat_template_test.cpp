// Templates of published models and folders: rendered texts are those of transformers (their SHA-256 in
// tests/data/templates/chat.json, written by tools/make_chat_template_fixtures.py).
#include "swiftprune/templates/chat_template.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "support/temp_dir.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/templates/json_value.h"

namespace swiftprune::templates {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

ChatRequest request(const char* body) { return chat_request_of(parse_json_value(body, "body")); }

// When the fixtures were made.
RenderOptions fixture_options() {
  RenderOptions options;
  options.now = [] {
    LocalTime local;
    const std::time_t seconds = 1764340000;  // 2025-11-28 14:26:40
    gmtime_r(&seconds, &local.time);
    return local;
  };
  return options;
}

std::string failure(const ChatTemplates& chat, const char* body) {
  try {
    ADD_FAILURE() << chat.render(request(body));
  } catch (const TemplateError& error) {
    return error.what();
  }
  return "";
}

TEST(ChatTemplates, RenderAsTransformersDoes) {
  const fs::path data = fs::path(SWIFTPRUNE_TEST_DATA) / "templates";
  const Value file = parse_json_value(file_bytes(data / "chat.json"), "chat.json");
  const auto field = [&](const char* name) -> const Dict& {
    return *file.as<Dict>()->find(std::string_view(name))->as<Dict>();
  };
  const test::TempDir folder;
  test::write_text(folder.path() / "tokenizer_config.json",
                   R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"})");
  test::write_text(folder.path() / "special_tokens_map.json",
                   R"({"unk_token": "<unk>", "bos_token": "not this"})");
  int rendered = 0, refused = 0, templates = 0;
  for (const auto& [name, results] : field("sha256").items()) {
    ++templates;
    const ChatTemplates chat = ChatTemplates::from_file(data / "chat" / *name.text(), folder.path());
    for (const auto& [conversation, hash] : results.as<Dict>()->items()) {
      const std::string where = *name.text() + ", " + *conversation.text();
      const Value& body = *field("requests").find(conversation);
      if (hash.text() == nullptr) {
        ++refused;
        EXPECT_THROW(chat.render(chat_request_of(body), fixture_options()), TemplateError) << where;
        continue;
      }
      ++rendered;
      try {
        EXPECT_EQ(sha256_hex(chat.render(chat_request_of(body), fixture_options())), *hash.text()) << where;
      } catch (const TemplateError& error) {
        ADD_FAILURE() << where << ": " << error.what();
      }
    }
  }
  EXPECT_GE(templates, 25);
  EXPECT_GT(rendered, 400);
  EXPECT_GT(refused, 20);
}

TEST(ChatTemplates, AreFoundWhereTransformersFindsThem) {
  const test::TempDir folder;
  const char* const body = R"({"messages": [{"role": "user", "content": "Hi"}]})";
  const char* const with_tools = R"({"messages": [{"role": "user", "content": "Hi"}], "tools": []})";
  EXPECT_FALSE(ChatTemplates::open(folder.path()).has_value());
  test::write_text(folder.path() / "chat_template.json",
                   R"({"chat_template": "old {{ messages[0].content }}"})");
  EXPECT_EQ(ChatTemplates::open(folder.path())->render(request(body)), "old Hi");
  test::write_text(folder.path() / "tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(ChatTemplates::open(folder.path())->render(request(body)), "config");
  test::write_text(
      folder.path() / "tokenizer_config.json",
      R"({"chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]})");
  EXPECT_EQ(ChatTemplates::open(folder.path())->render(request(body)), "plain");
  EXPECT_EQ(ChatTemplates::open(folder.path())->render(request(with_tools)), "tools");
  test::write_text(folder.path() / "chat_template.jinja", "jinja");
  EXPECT_EQ(ChatTemplates::open(folder.path())->render(request(with_tools)), "jinja");
  fs::create_directory(folder.path() / "additional_chat_templates");
  test::write_text(folder.path() / "additional_chat_templates" / "tool_use.jinja", "more");
  EXPECT_EQ(ChatTemplates::open(folder.path())->render(request(body)), "jinja");
  EXPECT_EQ(ChatTemplates::open(folder.path())->render(request(with_tools)), "more");
  fs::remove(folder.path() / "chat_template.jinja");
  EXPECT_THAT(failure(*ChatTemplates::open(folder.path()), body), HasSubstr("none is the default"));
}

TEST(ChatTemplates, TextsReadPartsAsTexts) {
  const char* const body =
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two "}]},
                       {"role": "user", "content": "three"}]})";
  const auto rendered = [&](const char* source, const char* sent) {
    const test::TempDir folder;
    test::write_text(folder.path() / "chat_template.jinja", source);
    return ChatTemplates::open(folder.path())->render_parts(request(sent));
  };
  // Printed as Python writes it, left out, refused by the template, added to a text.
  EXPECT_EQ(rendered("{% for m in messages %}[{{ m.content }}]{% endfor %}", body), "[one\ntwo ][three]");
  EXPECT_EQ(rendered("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}", body),
            "[one\ntwo][three]");
  EXPECT_EQ(
      rendered("{% for m in messages %}{% if m.content is string %}[{{ m.content }}]{% endif %}{% endfor %}",
               body),
      "[one\ntwo ][three]");
  EXPECT_EQ(
      rendered("{% for m in messages %}{% if m.content is not string %}{{ raise_exception('no') }}{% endif %}"
               "{{ '[' + m.content + ']' }}{% endfor %}",
               body),
      "[one\ntwo ][three]");
  // Templates that know parts get them.
  const char* const parts =
      "{% for m in messages %}[{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
      "{{ p.text | trim }};{% endfor %}{% endif %}]{% endfor %}";
  EXPECT_EQ(rendered(parts, body), "[one;two;][three]");
  EXPECT_EQ(rendered(parts, R"({"messages": [{"role": "user", "content": "three"}]})"), "[three]");
  // An unfinished last message goes on behind its last part.
  EXPECT_EQ(rendered("{% for m in messages %}[{{ m.content }}]{% endfor %}",
                     R"({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
                         "continue_final_message": true})"),
            "[a");
}

TEST(ChatTemplates, RefusalsSayWhy) {
  const test::TempDir folder;
  test::write_text(folder.path() / "chat_template.jinja",
                   "{% if messages[0].role != 'user' %}{{ raise_exception('start with user') }}{% endif %}"
                   "{{ messages[0]['content'] + x.y }}");
  const ChatTemplates chat = *ChatTemplates::open(folder.path());
  EXPECT_EQ(failure(chat, R"({"messages": [{"role": "system", "content": ""}]})"),
            "the chat template refuses this conversation: start with user");
  EXPECT_THAT(failure(chat, R"({"messages": [{"role": "user", "content": ""}]})"),
              HasSubstr("chat_template.jinja: line 1: 'x' is undefined"));
  EXPECT_THAT(failure(chat, R"({"messages": []})"), HasSubstr("messages"));
  EXPECT_THAT(failure(chat, R"({"messages": [5]})"), HasSubstr("messages"));
  EXPECT_THAT(failure(chat, R"({"messages": [{}], "tools": [5]})"), HasSubstr("tools"));
  EXPECT_THAT(failure(chat, R"({"messages": [{}], "add_generation_prompt": 1})"),
              HasSubstr("add_generation_prompt"));
  EXPECT_THAT(
      failure(chat, R"({"messages": [{}], "continue_final_message": true, "add_generation_prompt": true})"),
      HasSubstr("cannot both"));
  EXPECT_THAT(failure(chat, R"({"messages": [{"role": "user"}], "continue_final_message": true})"),
              HasSubstr("no \"content\""));
  EXPECT_THAT(failure(chat, R"({"messages": [{"role": "user"}], "chat_template_kwargs": {"messages": 1}})"),
              HasSubstr("chat_template_kwargs"));
}

}  // namespace
}  // namespace swiftprune::templates
