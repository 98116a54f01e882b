#include "swiftprune/serving/chat_template.h"

#include <gtest/gtest.h>

#include "support/temp_dir.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

const std::vector<ChatMessage> kTalk = {
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello"}, {"user", "Bye"}};

// What the models' own templates give for this talk, with an open answer.
TEST(ChatText, IsThatOfTheModelsTemplates) {
  EXPECT_EQ(
      chat_text(ChatFormat::kChatMl, kTalk).text,
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
      "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(
      chat_text(ChatFormat::kLlama3, kTalk).text,
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe "
      "brief.<|eot_id|><|start_header_id|>user"
      "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
      "\n\n");
  EXPECT_EQ(chat_text(ChatFormat::kLlama2, kTalk).text,
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Bye [/INST]");
  EXPECT_EQ(
      chat_text(ChatFormat::kGemma, kTalk).text,
      "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
      "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(
      chat_text(ChatFormat::kPhi3, kTalk).text,
      "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n<|user|>\nBye<|end|>\n"
      "<|assistant|>\n");
  EXPECT_EQ(chat_text(ChatFormat::kZephyr, kTalk).end_token, "</s>");
  EXPECT_THROW(chat_text(ChatFormat::kChatMl, std::vector<ChatMessage>{{"tool", "x"}}), Error);
}

TEST(FindChatFormat, ReadsTheTemplateThenTheTokenizer) {
  const test::TempDir folder;
  EXPECT_EQ(find_chat_format(folder.path()), std::nullopt);
  test::write_text(folder.path() / "tokenizer.json", R"({"added_tokens": [{"content": "<|im_start|>"}]})");
  EXPECT_EQ(find_chat_format(folder.path()), ChatFormat::kChatMl);
  test::write_text(folder.path() / "tokenizer_config.json",
                   R"({"chat_template": [{"name": "default", "template": "{{ '<start_of_turn>' }}"}]})");
  EXPECT_EQ(find_chat_format(folder.path()), ChatFormat::kGemma);
  test::write_text(folder.path() / "chat_template.jinja", "{{ '<|start_header_id|>' }}");
  EXPECT_EQ(find_chat_format(folder.path()), ChatFormat::kLlama3);
}

}  // namespace
}  // namespace swiftprune
