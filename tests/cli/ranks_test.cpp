// Several processes, one run: mpirun on this host. What they write and print is what one process does, and one that
// ends takes the others with it.
#include <chrono>
#include <csignal>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "evaluation/pruned_copy.h"
#include "support/require.h"
#include "swiftprune/ranks/mpi_library.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using test::start;
using test::wait_for;
using ::testing::AnyOf;
using ::testing::HasSubstr;

class RanksTest : public test::ProgramTest {
 protected:
  void SetUp() override {
    std::string why_not;
    if (!fs::exists(mpi_library_file())) why_not = "this build has no MPI";
    if (std::system("mpirun --version >/dev/null 2>&1") != 0) why_not = "no mpirun in PATH";
    if (!test::have(why_not, "SWIFTPRUNE_REQUIRE_MPI")) return;
    ids_ = ids(14000);
  }

  std::vector<std::string> prune(const std::string& out, const std::vector<std::string>& more,
                                 const std::string& method = "best") {
    std::vector<std::string> arguments = {"prune", model("llama2"), "-o",  at(out),    "--ids",
                                          ids_,    "--windows",     "200", "--seqlen", "64",
                                          "-q",    "--method",      method};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  std::vector<std::string> shrink(const std::string& dense, const std::string& out,
                                  const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"shrink",    dense, "-o",       at(out), "--ids", ids_,
                                          "--windows", "200", "--seqlen", "64",    "-q"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  static std::vector<std::string> with(std::vector<std::string> arguments,
                                       const std::vector<std::string>& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  // All files but the record, which tells times and ranks.
  void expect_same_folder(const std::string& a, const std::string& b) {
    std::vector<std::string> names[2];
    for (const std::string& folder : {a, b}) {
      for (const auto& entry : fs::directory_iterator(at(folder)))
        names[folder == a ? 0 : 1].push_back(entry.path().filename());
    }
    for (auto& of_folder : names) std::sort(of_folder.begin(), of_folder.end());
    EXPECT_EQ(names[0], names[1]);
    for (const std::string& file : names[0]) {
      if (file == "swiftprune.json") continue;
      EXPECT_TRUE(test::read_text(at(a) + "/" + file) == test::read_text(at(b) + "/" + file)) << file;
    }
  }
  void expect_same_run(const std::vector<std::string>& one, const std::vector<std::string>& several,
                       const std::string& a, const std::string& b) {
    ASSERT_EQ(run(one).exit_code, 0) << test::read_text(at("stderr"));
    const Finished result = run(several);
    ASSERT_EQ(result.exit_code, 0) << result.error;
    EXPECT_EQ(result.error, "");
    expect_same_folder(a, b);
  }

  // The processes that mpirun of this child has started, by rank.
  static std::map<int, pid_t> ranks_of(pid_t child) {
    std::map<int, pid_t> ranks;
    for (const pid_t mpirun : children_of(child)) {
      for (const pid_t process : children_of(mpirun)) {
        std::ifstream file(fmt::format("/proc/{}/environ", process));
        for (std::string variable; std::getline(file, variable, '\0');) {
          if (variable.starts_with("OMPI_COMM_WORLD_RANK="))
            ranks[std::atoi(variable.c_str() + variable.find('=') + 1)] = process;
        }
      }
    }
    return ranks;
  }
  static std::vector<pid_t> children_of(pid_t process) {
    std::vector<pid_t> children;
    for (const auto& thread : fs::directory_iterator(fmt::format("/proc/{}/task", process))) {
      std::ifstream file(thread.path() / "children");
      for (pid_t child = 0; file >> child;) children.push_back(child);
    }
    return children;
  }

  static bool is_alive(pid_t process) {
    std::ifstream file(fmt::format("/proc/{}/stat", process));
    std::string number, name, state;  // a process that nobody waited for is a zombie, Z
    return (file >> number >> name >> state) && state != "Z" && state != "X";
  }

  // Of the folder `out`, under whichever hidden name.
  bool is_laid_out() const {
    for (const auto& entry : fs::directory_iterator(at("."))) {
      if (entry.path().filename().string().starts_with(".out.partial") &&
          fs::exists(entry.path() / "model.safetensors"))
        return true;
    }
    return false;
  }

  // Starts a run of two ranks and sends `signal` to the second one once the output is laid out.
  Finished signal_second(const std::vector<std::string>& arguments, int signal) {
    const pid_t child = start(arguments, at("stdout"), at("stderr"));
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    std::map<int, pid_t> ranks;
    while (std::chrono::steady_clock::now() < give_up && (ranks.size() < 2 || !is_laid_out())) {
      ranks = ranks_of(child);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(ranks.size(), 2u);
    if (ranks.size() == 2) ::kill(ranks[1], signal);
    Finished result;
    result.exit_code = wait_for(child);
    result.error = test::read_text(at("stderr"));
    for (const auto& [rank, process] : ranks) {
      while (is_alive(process) && std::chrono::steady_clock::now() < give_up)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      EXPECT_FALSE(is_alive(process)) << "rank " << rank << " is left";
    }
    return result;
  }

  std::string ids_;
};

TEST_F(RanksTest, PruneWritesTheBytesOfOneProcess) {
  ASSERT_EQ(run(prune("one", {})).exit_code, 0);
  for (const char* count : {"2", "4"}) {
    const std::string out = std::string("of") + count;
    const Finished result = run(prune(out, {"--ranks", count}));
    ASSERT_EQ(result.exit_code, 0) << result.error;
    EXPECT_EQ(result.error, "");
    expect_same_folder("one", out);
  }
}

TEST_F(RanksTest, PackedModelsAndStatisticsOfOneStream) {
  ASSERT_EQ(run(prune("one", {"--quantize", "int4", "--group", "row"})).exit_code, 0);
  ASSERT_EQ(run(prune("two", {"--quantize", "int4", "--group", "row", "--ranks", "2"})).exit_code, 0);
  expect_same_folder("one", "two");
  ASSERT_EQ(run(prune("bits", {"--bits", "12", "--group", "row"})).exit_code, 0);
  ASSERT_EQ(run(prune("bits2", {"--bits", "12", "--group", "row", "--ranks", "2"})).exit_code, 0);
  expect_same_folder("bits", "bits2");
  ASSERT_EQ(run(prune("wanda", {}, "wanda")).exit_code, 0);
  ASSERT_EQ(run(prune("wanda2", {"--ranks", "2"}, "wanda")).exit_code, 0);
  expect_same_folder("wanda", "wanda2");
}

TEST_F(RanksTest, ShrinkWritesTheBytesOfOneProcess) {
  const std::string dense = model("llama2");
  expect_same_run(shrink(dense, "refit", {"--ratio", "0.25"}),
                  shrink(dense, "refit4", {"--ratio", "0.25", "--ranks", "4"}), "refit", "refit4");
  const std::vector<std::string> mixed = {"--ratio",    "0.3",          "--units",
                                          "mlp,layers", "--compensate", "aligned"};
  expect_same_run(shrink(dense, "mixed", mixed), shrink(dense, "mixed2", with(mixed, {"--ranks", "2"})),
                  "mixed", "mixed2");
  const std::vector<std::string> uneven = {"--ratio",       "0.25",    "--align", "4",
                                           "--non-uniform", "--score", "flap"};
  expect_same_run(shrink(dense, "uneven", uneven), shrink(dense, "uneven2", with(uneven, {"--ranks", "2"})),
                  "uneven", "uneven2");
}

TEST_F(RanksTest, ExpertsArePrunedAndTakenOutAsInOneProcess) {
  for (const char* family : {"qwen3_moe", "qwen3_moe_fused"}) {
    SCOPED_TRACE(family);
    const std::string dense = test::kExpertModels / family, name = family;
    const auto pruned = [&](const std::string& out, const std::vector<std::string>& more) {
      std::vector<std::string> arguments = prune(out, more);
      arguments[1] = dense;
      return arguments;
    };
    expect_same_run(pruned(name + "one", {}), pruned(name + "two", {"--ranks", "2"}), name + "one",
                    name + "two");
    const std::vector<std::string> half = {"--units", "experts", "--ratio", "0.5"};
    expect_same_run(shrink(dense, name + "half", half),
                    shrink(dense, name + "half4", with(half, {"--ranks", "4"})), name + "half",
                    name + "half4");
    if (name == "qwen3_moe_fused") continue;  // the form does not matter for what follows
    const std::vector<std::string> uneven = with(half, {"--non-uniform", "--score", "reap"});
    expect_same_run(shrink(dense, name + "uneven", uneven),
                    shrink(dense, name + "uneven2", with(uneven, {"--ranks", "2"})), name + "uneven",
                    name + "uneven2");
    const std::vector<std::string> narrow = {"--units", "mlp", "--ratio", "0.5", "--align", "4"};
    expect_same_run(shrink(dense, name + "narrow", narrow),
                    shrink(dense, name + "narrow2", with(narrow, {"--ranks", "2"})), name + "narrow",
                    name + "narrow2");
  }
}

TEST_F(RanksTest, CompareAndTasksFindTheNumbersOfOneProcess) {
  ASSERT_EQ(run(prune("pruned", {}, "magnitude")).exit_code, 0);
  const std::vector<std::string> compare = {
      "compare", model("llama2"), at("pruned"), "--ids", ids_, "--seqlen", "64", "--json", "-q"};
  auto expected = nlohmann::json::parse(run(compare).out);
  const Finished compared = run(with(compare, {"--ranks", "2"}));
  ASSERT_EQ(compared.exit_code, 0) << compared.error;
  auto found = nlohmann::json::parse(compared.out);
  for (const char* measured : {"perplexity", "window_nll", "divergence", "block_errors"})
    EXPECT_EQ(found["models"][1][measured], expected["models"][1][measured]) << measured;
  const std::vector<std::string> tasks = {"eval",   (test::kEvaluationData / "model").string(),
                                          "--task", (test::kEvaluationData / "piqa.jsonl").string(),
                                          "--json", "--items",
                                          "-q"};
  const auto of_one = nlohmann::json::parse(run(tasks).out);
  const auto of_two = nlohmann::json::parse(run(with(tasks, {"--ranks", "2"})).out);
  EXPECT_EQ(of_two["tasks"][0]["results"], of_one["tasks"][0]["results"]);
}

TEST_F(RanksTest, TuneFindsThePlanOfOneProcess) {
  const auto tune = [&](const std::string& out, const std::vector<std::string>& more) {
    return with({"tune", model("llama2"), "-o", at(out), "--ids", ids_, "--windows", "8", "--search-windows",
                 "8", "--seqlen", "64", "--trials", "20", "--minutes", "60", "--sparsity", "0.5", "-q"},
                more);
  };
  ASSERT_EQ(run(tune("one", {})).exit_code, 0) << test::read_text(at("stderr"));
  const Finished result = run(tune("three", {"--ranks", "3"}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_EQ(result.error, "");
  EXPECT_EQ(test::read_text(at("one/plan.json")), test::read_text(at("three/plan.json")));
  // Nothing but what was asked for is left, and a folder of one's own serves the next run.
  ASSERT_EQ(run(tune("kept.json", {"--ranks", "2", "--cache", at("levels")})).exit_code, 0);
  ASSERT_EQ(run(tune("again.json", {"--cache", at("levels")})).exit_code, 0);
  EXPECT_EQ(test::read_text(at("kept.json")), test::read_text(at("again.json")));
  EXPECT_EQ(test::read_text(at("kept.json")), test::read_text(at("one/plan.json")));
}

TEST_F(RanksTest, AGateIsMeasuredTogether) {
  const Finished passed =
      run(prune("out", {"--ranks", "2", "--gate", ids_, "--max-perplexity-ratio", "100"}, "magnitude"));
  EXPECT_EQ(passed.exit_code, 0) << passed.error;
  const Finished failed =
      run(prune("out2", {"--ranks", "2", "--gate", ids_, "--max-perplexity-ratio", "0.5"}, "magnitude"));
  EXPECT_EQ(failed.exit_code, 5) << failed.error;
  EXPECT_TRUE(fs::exists(at("out2/model.safetensors")));
}

TEST_F(RanksTest, EvalFindsTheNumbersOfOneProcess) {
  const std::vector<std::string> one = {"eval", model("llama2"), "--text", ids_, "--seqlen",
                                        "64",   "--json",        "-q"};
  const auto expected = nlohmann::json::parse(run(one).out);
  for (const char* count : {"2", "4"}) {
    std::vector<std::string> several = one;
    several.insert(several.end(), {"--ranks", count});
    const Finished result = run(several);
    ASSERT_EQ(result.exit_code, 0) << result.error;
    const auto found = nlohmann::json::parse(result.out);  // one document, not one of each rank
    EXPECT_EQ(found["mean_nll"], expected["mean_nll"]);
    EXPECT_EQ(found["texts"][0]["window_nll"], expected["texts"][0]["window_nll"]);
    EXPECT_EQ(found["ranks"], std::stoi(count));
  }
}

TEST_F(RanksTest, AKilledRankEndsAll) {
  const Finished result = signal_second(prune("out", {"--ranks", "2"}), SIGKILL);
  EXPECT_EQ(result.exit_code, 128 + SIGKILL);
  EXPECT_THAT(result.error, HasSubstr("swiftprune: rank 1 of 2 was ended by signal 9"));
  EXPECT_FALSE(fs::exists(at("out")));
}

TEST_F(RanksTest, AKilledRankEndsAShrinking) {
  const std::string moe = test::kExpertModels / "qwen3_moe";
  for (const std::vector<std::string>& arguments :
       {shrink(model("llama2"), "out", {"--ratio", "0.25", "--align", "4", "--ranks", "2"}),
        shrink(moe, "out", {"--units", "experts", "--ratio", "0.5", "--ranks", "2"})}) {
    const Finished result = signal_second(arguments, SIGKILL);
    EXPECT_EQ(result.exit_code, 128 + SIGKILL);
    EXPECT_THAT(result.error, HasSubstr("swiftprune: rank 1 of 2 was ended by signal 9"));
    EXPECT_FALSE(fs::exists(at("out")));
    for (const auto& entry : fs::directory_iterator(at("."))) {
      if (entry.path().filename().string().starts_with(".out.partial")) fs::remove_all(entry.path());
    }
  }
}

TEST_F(RanksTest, AHangingRankEndsAllAfterTheTimeLimit) {
  const auto begin = std::chrono::steady_clock::now();
  const Finished result = signal_second(prune("out", {"--ranks", "2", "--rank-timeout", "3"}), SIGSTOP);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(
      result.error,
      HasSubstr("swiftprune: rank 0 of 2: nothing was heard of rank 1 for 3 s; it hangs, or has more to do"));
  EXPECT_FALSE(fs::exists(at("out")));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

TEST_F(RanksTest, AResumedRunMayHaveAnotherNumberOfRanks) {
  ASSERT_EQ(run(prune("whole", {})).exit_code, 0);
  const pid_t child = start(prune("out", {"--resume", "--threads", "1"}), at("stdout"), at("stderr"));
  const fs::path journal = at(".out.partial/journal.jsonl");
  while (!fs::exists(journal) || fs::file_size(journal) == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(child, SIGINT);  // whatever blocks are finished are kept
  wait_for(child);
  const Finished result = run(prune("out", {"--resume", "--ranks", "2"}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  expect_same_folder("whole", "out");
}

TEST_F(RanksTest, AFaultIsToldOnce) {
  Finished result = run({"prune", at("no model"), "-o", at("out"), "--ranks", "2"});
  EXPECT_EQ(result.exit_code, 3) << result.error;
  EXPECT_EQ(std::count(result.error.begin(), result.error.end(), '\n'), 1) << result.error;
  EXPECT_THAT(result.error, HasSubstr("rank 0 of 2: "));
  result = run({"eval", model("llama2"), "--text", ids_, "--task", "no piqa.jsonl", "--ranks", "2"});
  EXPECT_EQ(result.exit_code, 3) << result.error;
  EXPECT_EQ(std::count(result.error.begin(), result.error.end(), '\n'), 1) << result.error;
  result = run(prune("out", {"--ranks", "2", "--dry-run"}));
  EXPECT_EQ(result.exit_code, 2) << result.error;
  EXPECT_THAT(result.error, HasSubstr("--dry-run: found with 2 ranks"));
}

// Started by hand, as on several hosts: one of the ranks is given another model.
TEST_F(RanksTest, RanksThatDifferAreRefused) {
  fs::copy(model("llama2"), at("other"), fs::copy_options::recursive);
  {
    std::fstream file(at("other/model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('x');
  }
  const auto line = [&](const std::string& name) {
    return fmt::format("'{}' eval '{}' --text '{}' --seqlen 64 -q", SWIFTPRUNE_PROGRAM, name, ids_);
  };
  const std::string command = fmt::format(
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -q --oversubscribe -n 1 sh -c \"cd "
      "'{}' && {}\" "
      ": -n 1 sh -c \"cd '{}' && {}\" >'{}' 2>'{}'",
      fs::absolute(model("llama2")).string(), line("."), at("other"), line("."), at("stdout"), at("stderr"));
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 2);
  EXPECT_THAT(test::read_text(at("stderr")),
              HasSubstr("rank 1 of 2: found another model than the first rank has"));
}

// Of the second rank alone.
TEST_F(RanksTest, AFullDiskOnOneRankEndsAll) {
  const std::string moe = test::kExpertModels / "qwen3_moe";
  for (const std::vector<std::string>& arguments :
       {prune("out", {"--threads", "1"}), shrink(model("llama2"), "out", {"--ratio", "0.25"}),
        shrink(moe, "out", {"--units", "experts", "--ratio", "0.5"})}) {
    std::string line = fmt::format("'{}'", SWIFTPRUNE_PROGRAM);
    for (const std::string& argument : arguments) line += fmt::format(" '{}'", argument);
    const std::string command = fmt::format(
        "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -q --oversubscribe -n 1 {0} : "
        "-n 1 env LD_PRELOAD='{1}' FAULT_FOLDER='{2}' FAULT_AT=4 FAULT_ERRNO={3} {0} >'{4}' 2>'{5}'",
        line, SWIFTPRUNE_FAILING_WRITES, at(".out.partial"), ENOSPC, at("stdout"), at("stderr"));
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1) << arguments[0];
    const std::string error = test::read_text(at("stderr"));
    EXPECT_THAT(error, HasSubstr("rank 1 of 2: ")) << arguments[0];
    EXPECT_THAT(error, HasSubstr("the disk is full")) << arguments[0];
    EXPECT_FALSE(fs::exists(at("out")));
    for (const auto& entry : fs::directory_iterator(at("."))) {
      if (entry.path().filename().string().starts_with(".out.partial")) fs::remove_all(entry.path());
    }
  }
}

TEST_F(RanksTest, ATimelineHasEveryRanksStages) {
  for (const char* count : {"1", "2"}) {
    const std::string file = at(std::string("timeline") + count + ".json");
    const Finished result = run(prune(std::string("out") + count, {"--ranks", count, "--timeline", file}));
    ASSERT_EQ(result.exit_code, 0) << result.error;
    std::map<int, std::set<std::string>> stages;
    const auto trace = nlohmann::json::parse(test::read_text(file));
    for (const auto& event : trace["traceEvents"]) {
      if (event["ph"] == "X") stages[event["pid"].get<int>()].insert(event["name"].get<std::string>());
    }
    EXPECT_EQ(stages.size(), static_cast<std::size_t>(std::stoi(count)));
    for (const auto& [rank, of_rank] : stages) {
      for (const char* stage : {"read", "forward", "refine", "write"})
        EXPECT_TRUE(of_rank.contains(stage)) << rank << " " << stage;
      EXPECT_EQ(of_rank.contains("exchange"), std::string(count) == "2") << rank;
    }
  }
}

TEST_F(RanksTest, ARankOfOneIsAlone) {
  ASSERT_EQ(run(prune("one", {}, "magnitude")).exit_code, 0);
  ::setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
  ::setenv("OMPI_COMM_WORLD_RANK", "1", 1);
  const Finished result = run(prune("alone", {"--ranks", "1"}, "magnitude"));
  ::unsetenv("OMPI_COMM_WORLD_SIZE");
  ::unsetenv("OMPI_COMM_WORLD_RANK");
  ASSERT_EQ(result.exit_code, 0) << result.error;
  expect_same_folder("one", "alone");
}

TEST_F(RanksTest, OtherCommandsRefuseToBeRanks) {
  const std::string command =
      fmt::format("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 '{}' pack '{}' -o '{}' 2>'{}'",
                  SWIFTPRUNE_PROGRAM, model("llama2"), at("out"), at("stderr"));
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 2);
  EXPECT_THAT(test::read_text(at("stderr")), HasSubstr("pack: found 2 processes that mpirun started"));
}

// Needs no MPI.
TEST(RanksWithoutMpi, ItsLibraryIsMissedByName) {
  const test::TempDir folder;
  const std::string error = folder.path() / "stderr";
  const std::string command =
      fmt::format("SWIFTPRUNE_MPI_LIBRARY=/no/libswiftprune_mpi.so '{}' eval '{}' --text x --ranks 2 2>'{}'",
                  SWIFTPRUNE_PROGRAM, (test::kModels / "llama2").string(), error);
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 4);
  EXPECT_THAT(test::read_text(error),
              HasSubstr("--ranks: its MPI code, /no/libswiftprune_mpi.so, is not there"));
}

// Needs neither GPU nor MPI.
TEST(RanksWithoutGpus, WhatAllLackIsToldOnce) {
  const test::TempDir folder;
  const std::string error = folder.path() / "stderr";
  const std::string command = fmt::format("CUDA_VISIBLE_DEVICES= '{}' eval '{}' --text x --gpus 3 2>'{}'",
                                          SWIFTPRUNE_PROGRAM, (test::kModels / "llama2").string(), error);
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 4);
  const std::string told = test::read_text(error);
  EXPECT_EQ(told.find("swiftprune: "), told.rfind("swiftprune: ")) << told;
  EXPECT_EQ(std::count(told.begin(), told.end(), '\n'), 1) << told;
}

}  // namespace
}  // namespace swiftprune
