#include "swiftprune/checkpoint/model_location.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;
using test::write_text;

// A cache as huggingface_hub lays it out: blobs, refs and snapshots of links.
class ModelLocation : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* variable : kVariables) ::unsetenv(variable);
    ::setenv("HF_HOME", (dir_.path() / "hf").c_str(), 1);
    fs::create_directories(repository_ / "blobs");
    fs::create_directories(repository_ / "refs");
    fs::create_directories(snapshot_);
    write_text(repository_ / "blobs" / "b1", "{}");
    write_text(repository_ / "refs" / "main", "c0ffee");
    fs::create_symlink("../../blobs/b1", snapshot_ / "config.json");
  }
  void TearDown() override {
    for (const char* variable : kVariables) ::unsetenv(variable);
  }

  static constexpr const char* kVariables[] = {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"};
  TempDir dir_;
  fs::path repository_ = dir_.path() / "hf" / "hub" / "models--Org--Small-1.5B";
  fs::path snapshot_ = repository_ / "snapshots" / "c0ffee";
};

TEST_F(ModelLocation, IdsAndFoldersOfTheCacheMeanTheirSnapshot) {
  EXPECT_EQ(locate_model("Org/Small-1.5B").folder, snapshot_);
  EXPECT_EQ(locate_model("Org/Small-1.5B@main").folder, snapshot_);
  EXPECT_EQ(locate_model("Org/Small-1.5B@c0ffee").folder, snapshot_);
  EXPECT_EQ(locate_model(repository_.string()).folder, snapshot_);
  EXPECT_EQ(locate_model(repository_.string() + "/").folder, snapshot_);
  EXPECT_EQ(model_name(snapshot_), "Small-1.5B");
}

TEST_F(ModelLocation, TheHubsOwnVariableComesFirst) {
  const fs::path other = dir_.path() / "elsewhere";
  fs::create_directories(other / "models--Org--Small-1.5B" / "snapshots" / "main");
  ::setenv("HF_HUB_CACHE", other.c_str(), 1);
  EXPECT_EQ(locate_model("Org/Small-1.5B").folder, other / "models--Org--Small-1.5B" / "snapshots" / "main");
}

TEST_F(ModelLocation, WhatIsThereIsTakenAsItIs) {
  const std::string folder = (dir_.path() / "Org").string();
  fs::create_directories(folder);
  EXPECT_EQ(locate_model(folder).folder, folder);
  EXPECT_EQ(model_name(folder + "/"), "Org");
  EXPECT_EQ(model_name("."), fs::current_path().filename());
}

TEST_F(ModelLocation, WhatIsNotThereSaysHowToGetIt) {
  const auto missing = [](const std::string& name, std::initializer_list<std::string> texts) {
    expect_error(
        ErrorKind::kBadInput, [&] { locate_model(name); }, texts);
  };
  missing("Org/Large",
          {"Org/Large", (dir_.path() / "hf" / "hub").string(), "hf download Org/Large", "--local-dir"});
  missing("Org/Small-1.5B@v2", {"no revision 'v2'", "hf download"});
  missing("../Org/Large", {"no such folder"});
  missing("Org/Large/more", {"no such folder"});
  expect_error(ErrorKind::kUsage, [] { locate_model(""); }, {"MODEL: found nothing", "a folder"});
  fs::remove(repository_ / "blobs" / "b1");
  missing("Org/Small-1.5B", {"config.json", "not complete"});
  write_text(repository_ / "refs" / "main", "../../../secret");
  missing("Org/Small-1.5B", {"refs/main", "no commit"});
}

}  // namespace
}  // namespace swiftprune
