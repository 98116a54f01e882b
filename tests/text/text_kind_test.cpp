#include "swiftprune/text/text_kind.h"

#include <string>

#include <gtest/gtest.h>

namespace swiftprune {
namespace {

constexpr std::string_view kProse =
    "It was on a dreary night of November that I beheld the accomplishment of my toils (with an anxiety that "
    "almost "
    "amounted to agony), and I collected the instruments of life around me.\n";
constexpr std::string_view kCode =
    "def total(values):\n    result = 0\n    for value in values:\n        result += weight[value] * 2\n"
    "    return result\n";
constexpr std::string_view kChat =
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>\n";

TEST(TextKind, IsToldByPlainSigns) {
  EXPECT_EQ(text_kind(kProse), TextKind::kProse);
  EXPECT_EQ(text_kind(kCode), TextKind::kCode);
  EXPECT_EQ(text_kind(kChat), TextKind::kChat);
  EXPECT_EQ(text_kind("User: how do I sort?\nAssistant: " + std::string(kCode)), TextKind::kChat);
  EXPECT_EQ(text_kind("He wrote to the User: a letter. " + std::string(kProse)), TextKind::kProse);
  EXPECT_EQ(text_kind(""), TextKind::kProse);
  EXPECT_EQ(text_kind(" \n\t"), TextKind::kProse);
  EXPECT_EQ(text_kind("\xff\xfe\x00"), TextKind::kProse);
}

TEST(TextKind, OneKindIsAllButATenth) {
  TextKinds kinds;
  EXPECT_EQ(kinds.only(), nullptr);
  for (int i = 0; i < 20; ++i) kinds.add(kProse);
  ASSERT_NE(kinds.only(), nullptr);
  EXPECT_EQ(*kinds.only(), TextKind::kProse);
  EXPECT_EQ(kinds.share(TextKind::kProse), 1.0);
  for (int i = 0; i < 8; ++i) kinds.add(kCode);
  EXPECT_EQ(kinds.only(), nullptr);
  const double code = 8.0 * static_cast<double>(kCode.size());
  EXPECT_NEAR(kinds.share(TextKind::kCode), code / (code + 20.0 * static_cast<double>(kProse.size())), 1e-12);
}

}  // namespace
}  // namespace swiftprune
