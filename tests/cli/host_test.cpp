// What another program sees that runs commands in its own process.
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "command.h"
#include "model/family_fixture.h"
#include "option_table.h"
#include "support/temp_dir.h"

namespace swiftprune::cli {
namespace {

using ::testing::HasSubstr;
using OrderedJson = nlohmann::ordered_json;

struct Heard {
  std::string page;
  std::vector<OrderedJson> results;
  std::vector<std::string> notes;
  int steps = 0;
};

void run(std::vector<std::string> arguments, Heard& heard, std::stop_token stop = {}) {
  const CommandHost host{.stop = std::move(stop),
                         .progress = [&](std::string_view, std::int64_t, std::int64_t) { ++heard.steps; },
                         .result = [&](const OrderedJson& document) { heard.results.push_back(document); },
                         .note = [&](const std::string& note) { heard.notes.push_back(note); },
                         .page = [&](const std::string& page) { heard.page = page; }};
  const HostScope scope(host);
  std::ranges::reverse(arguments);
  make_program()->parse(arguments);
}

TEST(CommandHost, HearsResultsNotesAndProgressInsteadOfTheTerminal) {
  const test::TempDir folder;
  const std::string dense = test::model_folder("llama2").string();
  const std::string half = (folder.path() / "half").string(), again = (folder.path() / "again").string();
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Heard heard;
  run({"prune", dense, "-o", half, "--method", "magnitude"}, heard);
  EXPECT_GT(heard.steps, 0);
  ASSERT_EQ(heard.results.size(), 1u);
  EXPECT_EQ(heard.results[0].at("command").at("arguments"),
            OrderedJson({"swiftprune", "prune", dense, "--out", half, "--method", "magnitude"}));
  EXPECT_TRUE(heard.notes.empty());
  run({"prune", half, "-o", again, "--method", "magnitude", "--sparsity", "0.3"}, heard);
  ASSERT_EQ(heard.notes.size(), 1u);
  EXPECT_THAT(heard.notes[0], HasSubstr("zeros already"));
  EXPECT_EQ(::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr(), "");

  std::stop_source stop;
  stop.request_stop();
  EXPECT_THROW(run({"prune", dense, "-o", (folder.path() / "no").string(), "--method", "magnitude"}, heard,
                   stop.get_token()),
               Interrupted);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "no"));
}

TEST(OptionTable, HasWhatTheParserHas) {
  const OrderedJson table = option_table(*make_program());
  const auto find = [](const OrderedJson& list, const std::string& name) {
    return *std::ranges::find_if(list, [&](const OrderedJson& item) { return item.at("name") == name; });
  };
  const OrderedJson prune = find(table, "prune").at("options");
  EXPECT_EQ(find(prune, "MODEL").at("positional"), true);
  EXPECT_EQ(find(prune, "out").at("required"), true);
  EXPECT_EQ(find(prune, "sparsity").at("type"), "float");
  EXPECT_EQ(find(prune, "sparsity").at("default"), 0.5);
  EXPECT_EQ(find(prune, "resume").at("type"), "flag");
  EXPECT_EQ(find(prune, "resume").at("default"), false);
  EXPECT_EQ(find(prune, "calibration").at("many"), true);
  EXPECT_EQ(find(prune, "override").at("values_each"), 2);
  EXPECT_EQ(find(prune, "compute").at("values"), OrderedJson({"auto", "f32", "bf16"}));
}

}  // namespace
}  // namespace swiftprune::cli
