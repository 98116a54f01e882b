#include "swiftprune/api/text_writer.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/templates/json_value.h"

namespace swiftprune {
namespace {

const std::filesystem::path kFolder = std::filesystem::path(SWIFTPRUNE_TEST_DATA) / "evaluation/model";

std::string write_all(TextWriter& writer, std::span<const std::int32_t> prompt,
                      const WritingOptions& options) {
  Writing writing = writer.write(prompt, options);
  std::string text;
  while (const auto piece = writing.next()) text += *piece;
  return text + writing.rest();
}

// The likeliest token by hand, each behind all that stand before it.
TEST(TextWriter, WritesTheLikeliestTokens) {
  const auto device = make_cpu_device();
  TextWriter writer(kFolder, *device, ComputeType::kF32);
  const std::vector<std::int32_t> prompt = writer.prompt("The quick brown");
  constexpr std::int64_t kTokens = 12;
  Writing writing = writer.write(prompt, {.max_tokens = kTokens});
  std::string text;
  while (const auto piece = writing.next()) text += *piece;
  text += writing.rest();
  EXPECT_EQ(writing.next(), std::nullopt);
  EXPECT_EQ(writing.prompt_tokens(), static_cast<std::int64_t>(prompt.size()));

  const auto model = Model::open(kFolder);
  const auto generator = device->generator(*model, ComputeType::kF32, 1, 64, {});
  std::vector<std::int32_t> ids = prompt;
  for (std::int64_t t = 0; t < writing.num_tokens(); ++t) {
    generator->restart();
    const auto logits = generator->append(ids).row_span(0);
    ids.push_back(static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin()));
  }
  EXPECT_EQ(writer.tokenizer().decode(ids), writer.tokenizer().decode(prompt) + text);
  EXPECT_EQ(writing.stopped_by() == "length", writing.num_tokens() == kTokens);
}

// What stands in the cache is read again only where the prompt does not begin with it.
TEST(TextWriter, GoesOnWhereTheTextBeforeEnded) {
  const auto device = make_cpu_device();
  TextWriter writer(kFolder, *device, ComputeType::kF32), fresh(kFolder, *device, ComputeType::kF32);
  const WritingOptions options = {.max_tokens = 6, .goes_on = true};
  std::vector<std::int32_t> prompt = writer.prompt("The quick brown");
  const std::vector<std::int32_t> first = prompt;
  Writing writing = writer.write(prompt, options);
  EXPECT_EQ(writing.cached_tokens(), 0);
  ASSERT_TRUE(writing.next() && writing.next() && writing.next());
  // The third token was drawn and not read yet.
  const auto generator = device->generator(writer.model(), ComputeType::kF32, 1, 64, {});
  for (int t = 0; t < 2; ++t) {
    generator->restart();
    const auto logits = generator->append(prompt).row_span(0);
    prompt.push_back(static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin()));
  }
  const auto cached = std::ssize(prompt);
  for (const std::int32_t id : fresh.tokenizer().encode(" fox", false)) prompt.push_back(id);
  Writing next = writer.write(prompt, options);
  EXPECT_EQ(next.cached_tokens(), cached);
  EXPECT_EQ(next.prompt_tokens(), std::ssize(prompt));
  std::string text;
  while (const auto piece = next.next()) text += *piece;
  EXPECT_EQ(text + next.rest(), write_all(fresh, prompt, {.max_tokens = 6}));

  EXPECT_EQ(writer.write(first, options).cached_tokens(), 0) << "shorter than the cache";
  EXPECT_EQ(writer.write(prompt, {.max_tokens = 6}).cached_tokens(), 0) << "not asked for";
}

TEST(TextWriter, IsAskedAgainAndEndsTheTextBefore) {
  const auto device = make_cpu_device();
  TextWriter writer(kFolder, *device, ComputeType::kF32);
  const std::vector<std::int32_t> prompt = writer.prompt("The");
  const std::string once = write_all(writer, prompt, {.max_tokens = 4});
  Writing first = writer.write(prompt, {.max_tokens = 4});
  ASSERT_NE(first.next(), std::nullopt);
  const std::string longer = write_all(writer, prompt, {.max_tokens = 20});  // more positions than before
  EXPECT_TRUE(longer.starts_with(once) || once.ends_with("\uFFFD")) << once << "|" << longer;
  EXPECT_EQ(write_all(writer, prompt, {.max_tokens = 4}), once);
  test::expect_error(
      ErrorKind::kUsage, [&] { first.next(); }, "began another");
  test::expect_error(
      ErrorKind::kUsage, [&] { writer.write(prompt, {.max_tokens = 1 << 24}); }, "max_position_embeddings");
  test::expect_error(
      ErrorKind::kUsage, [&] { writer.write(prompt, {.max_tokens = 0}); }, "max_tokens");
  test::expect_error(
      ErrorKind::kUsage, [&] { writer.write({}, {}); }, "at least one");
}

TEST(TextWriter, AConversationIsWhatItsTemplateWrites) {
  const test::TempDir folder;
  std::filesystem::copy(kFolder, folder.path() / "model");
  test::write_text(folder.path() / "model/chat_template.jinja",
                   "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}");
  const auto request = templates::chat_request_of(
      templates::parse_json_value(R"({"messages": [{"role": "user", "content": "Hello"}]})", "body"));
  const auto device = make_cpu_device();
  TextWriter writer(folder.path() / "model", *device, ComputeType::kF32);
  ASSERT_NE(writer.chat(), nullptr);
  EXPECT_EQ(writer.prompt(request), writer.tokenizer().encode("user: Hello ", false));
  TextWriter other(kFolder, *device, ComputeType::kF32);
  EXPECT_EQ(other.chat(), nullptr);
  test::expect_error(
      ErrorKind::kBadInput, [&] { other.prompt(request); }, "no chat template");
}

}  // namespace
}  // namespace swiftprune
