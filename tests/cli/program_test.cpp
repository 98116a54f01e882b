// The program from the outside: the whole way of a model, faults in the middle of it, and what it says to
// wrong input (one line on stderr, an exit code, nothing left behind).
#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using test::ProgramTest;
using test::start;
using test::wait_for;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

bool same_tensors(const fs::path& a, const fs::path& b) {
  const Checkpoint first = Checkpoint::open(a);
  const Checkpoint second = Checkpoint::open(b);
  if (first.tensors().size() != second.tensors().size()) return false;
  return std::all_of(first.tensors().begin(), first.tensors().end(), [&](const TensorInfo& tensor) {
    const auto left = first.bytes(tensor);
    const auto right = second.bytes(second.at(tensor.name));
    return std::equal(left.begin(), left.end(), right.begin(), right.end());
  });
}

// The document's table is the program's.
// Only a number that was asked for is refused when the text is shorter.
TEST_F(ProgramTest, TheDefaultNumberOfWindowsFitsTheText) {
  const std::vector<std::string> prune = {"prune", model("llama2"), "-o", at("out"), "--ids", ids(200)};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), prune.begin(), prune.end());
    more.insert(more.end(), {"--seqlen", "64"});
    return more;
  };
  expect_refused(with({"--windows", "16"}), 3, "ids.u16");
  const Finished result = run(with({}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.error, HasSubstr("the text fills 3 of the 16 windows that --method best takes here"));
}

TEST_F(ProgramTest, ListsTheFamiliesAsTheDocumentDoes) {
  const Finished table = run({"families"});
  ASSERT_EQ(table.exit_code, 0) << table.error;
  EXPECT_THAT(test::read_text(SWIFTPRUNE_TEST_DATA "/../../docs/models.md"), HasSubstr(table.out))
      << "docs/models.md: put the output of `swiftprune families` there";
  const Finished list = run({"families", "--json"});
  const auto families = nlohmann::json::parse(list.out);
  EXPECT_EQ(families[0].at("family"), "llama");
  EXPECT_THAT(families[0].at("shrink"), ElementsAre("mlp", "heads", "layers"));
}

TEST_F(ProgramTest, PrunesVerifiesEvaluatesPacksAndUnpacks) {
  const std::string text = ids(400);
  for (const std::string pattern : {"row", "1:2"}) {
    for (const std::string method : {"best", "fast", "magnitude"}) {
      SCOPED_TRACE(pattern + " " + method);
      const std::string out = at(method + pattern);
      Finished result = run({"prune", model("llama3"), "-o", out, "--pattern", pattern, "--method", method,
                             "--ids", text, "--windows", "4", "--seqlen", "32", "--json"});
      ASSERT_EQ(result.exit_code, 0) << result.error;
      const auto record = nlohmann::json::parse(result.out);
      EXPECT_NEAR(record.at("sparsity").get<double>(), 0.5, 0.03);
      EXPECT_GT(record.at("seconds").at("total").get<double>(), 0.0);
      EXPECT_EQ(record.at("tensors")[0].contains("sensitivity"), pattern == "row" && method == "best");
      EXPECT_EQ(nlohmann::json::parse(test::read_text(out + "/swiftprune.json")), record);
      result = run({"verify", model("llama3"), out});
      EXPECT_EQ(result.exit_code, 0) << result.out << result.error;
      result = run({"eval", out, "--ids", text, "--seqlen", "32", "--json"});
      ASSERT_EQ(result.exit_code, 0) << result.error;
      const double perplexity = nlohmann::json::parse(result.out).at("perplexity").get<double>();
      EXPECT_GT(perplexity, 1.0);
      ASSERT_EQ(run({"pack", out, "--out", out + ".packed"}).exit_code, 0);
      ASSERT_EQ(run({"unpack", out + ".packed", "--out", out + ".dense"}).exit_code, 0);
      EXPECT_TRUE(same_tensors(out + ".dense", out));
      EXPECT_TRUE(hidden_files().empty());
    }
  }
}

// Sparse + low rank from one end to the other: the model alone, with its adapter, packed with it.
TEST_F(ProgramTest, PrunesWithALowRankPartAndTakesItAgain) {
  const std::string text = ids(1200), out = at("low"), adapter = out + "/adapter";
  Finished result = run({"prune", model("llama3"), "-o", out, "--pattern", "1:2", "--low-rank", "4", "--ids",
                         text, "--windows", "8", "--seqlen", "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto record = nlohmann::json::parse(result.out);
  EXPECT_EQ(record.at("low_rank").at("rank"), 4);
  EXPECT_EQ(record.at("low_rank").at("folder"), "adapter");
  EXPECT_GT(record.at("low_rank").at("bytes").get<double>(), 0.0);
  EXPECT_EQ(record.at("tensors").at(0).at("low_rank"), 4);
  EXPECT_TRUE(hidden_files().empty());
  result = run({"verify", model("llama3"), out});
  EXPECT_EQ(result.exit_code, 0) << result.out << result.error;
  EXPECT_THAT(result.out, HasSubstr("low-rank parts of the recorded ranks"));

  const auto perplexity = [&](const std::string& folder, const std::string& beside,
                              const char* compute = "f32") {
    std::vector<std::string> arguments = {"eval", folder,      "--ids", text,    "--seqlen",
                                          "32",   "--compute", compute, "--json"};
    if (!beside.empty()) arguments.insert(arguments.end(), {"--adapter", beside});
    const Finished found = run(arguments);
    EXPECT_EQ(found.exit_code, 0) << found.error;
    const auto document = nlohmann::json::parse(found.out);
    EXPECT_EQ(document.contains("adapter"), !beside.empty());
    EXPECT_EQ(document.dump().find("is not used") != std::string::npos, beside.empty());
    return document.at("perplexity").get<double>();
  };
  const double sum = perplexity(out, adapter);
  EXPECT_NE(sum, perplexity(out, ""));
  ASSERT_EQ(run({"pack", out, "--out", at("packed")}).exit_code, 0);
  EXPECT_NEAR(perplexity(at("packed"), at("packed/adapter")) / sum, 1.0, 1e-3);

  result = run({"compare", model("llama3"), out, out, "--adapter", "none", adapter, "--ids", text, "--seqlen",
                "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto models = nlohmann::json::parse(result.out).at("models");
  EXPECT_EQ(models.at(2).at("name"), "low + adapter");
  EXPECT_LT(models.at(2).at("divergence").at("mean_kl").get<double>(),
            models.at(1).at("divergence").at("mean_kl").get<double>());
  expect_refused(
      {"compare", model("llama3"), out, out, "--adapter", adapter, "--ids", text, "--seqlen", "32"}, 2,
      "--adapter: found 1 for 2 pruned models");
  expect_refused({"eval", out, "--adapter", at("nothing"), "--ids", text}, 3, "adapter_config.json");
  expect_refused({"bench", out, "--adapter", out, "--prompt", "4", "--decode", "4"}, 3,
                 "adapter_config.json");
  result =
      run({"bench", out, "--adapter", adapter, "--prompt", "4", "--decode", "4", "--rounds", "1", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.error;

  // What is made of the sparse weights alone has no such part.
  ASSERT_EQ(run({"prune", out, "-o", at("again"), "--method", "magnitude"}).exit_code, 0);
  EXPECT_FALSE(fs::exists(at("again/adapter")));
  fs::remove_all(at("again"));
  expect_refused({"prune", model("llama3"), "-o", at("out"), "--low-rank", "4", "--method", "wanda"}, 2,
                 "low rank: found 4 with refine none");
  expect_refused(
      {"prune", model("llama3"), "-o", at("out"), "--low-rank", "4", "--quantize", "int8", "--group", "row"},
      2, "low rank: found 4 with quantize");
}

TEST_F(ProgramTest, WritesTextWithAnAdapter) {
  const std::string folder = at("model");
  fs::copy(model("llama3"), folder);
  write_tokenizer(folder);
  const auto text = [&](const std::string& adapter) {
    std::vector<std::string> arguments = {"generate", folder, "--prompt", "abc", "-n", "8", "--json"};
    if (!adapter.empty()) arguments.insert(arguments.end(), {"--adapter", adapter});
    const Finished result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return nlohmann::json::parse(result.out).at("text").get<std::string>();
  };
  EXPECT_NE(text(""), text(SWIFTPRUNE_TEST_DATA "/adapter/llama3"));
}

TEST_F(ProgramTest, QuantizesAndEvaluates) {
  const std::string text = ids(1000);
  const auto perplexity = [&](const std::string& folder) {
    const Finished result = run({"eval", folder, "--ids", text, "--seqlen", "32", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return nlohmann::json::parse(result.out).at("perplexity").get<double>();
  };
  const double dense = perplexity(model("llama3"));
  for (const char* store : {"packed", "dense"}) {
    for (const char* method : {"best", "rtn"}) {
      const std::string out = at(fmt::format("{}-{}", store, method));
      const Finished result =
          run({"quantize", model("llama3"), "-o", out, "--quantize", "int8", "--group", "row", "--method",
               method, "--ids", text, "--windows", "2", "--seqlen", "32", "--store", store, "--json"});
      ASSERT_EQ(result.exit_code, 0) << result.error;
      const auto record = nlohmann::json::parse(result.out);
      EXPECT_EQ(record.at("tensors").at(0).at("quantize"), "int8(row)");
      EXPECT_EQ(record.contains("packed"), std::string_view(store) == "packed");
      EXPECT_NEAR(perplexity(out) / dense, 1.0, 0.05) << store << " " << method;
    }
  }
  EXPECT_TRUE(hidden_files().empty());
}

TEST_F(ProgramTest, ADryRunTellsThePlanAndWritesNothing) {
  const std::vector<std::string> asked = {
      "prune",        model("llama2"), "-o", at("out"),  "--method", "wanda",      "--ids",
      ids(400),       "--windows",     "4",  "--seqlen", "32",       "--override", "*.down_proj.weight",
      "sparsity=0.25"};
  std::vector<std::string> dry = asked;
  dry.insert(dry.end(), {"--dry-run", "--json"});
  Finished result = run(dry);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_FALSE(fs::exists(at("out")));
  EXPECT_TRUE(hidden_files().empty());
  const auto told = nlohmann::json::parse(result.out);
  EXPECT_EQ(told.at("calibration").at("windows"), 4);
  EXPECT_GT(told.at("estimate").at("seconds").get<double>(), 0.0);
  EXPECT_GT(told.at("estimate").at("memory_bytes").get<double>(), 1e6);
  ASSERT_EQ(run(asked).exit_code, 0);
  EXPECT_EQ(told.at("plan"), nlohmann::json::parse(test::read_text(at("out/plan.json"))));
  const auto written = static_cast<double>(fs::file_size(at("out/model.safetensors")));
  EXPECT_NEAR(told.at("estimate").at("disk_bytes").get<double>() / written, 1.0, 0.15);

  // What is wrong is told as the run itself would.
  result = run(dry);
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.error, HasSubstr("not empty"));
  result =
      run({"quantize", model("llama2"), "-o", at("int8"), "--group", "row", "--method", "rtn", "--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("nothing is written"), HasSubstr("int4(row)"), HasSubstr("at most")));
}

TEST_F(ProgramTest, APlanThatWasWrittenRepeatsTheRun) {
  const std::string text = ids(400);
  const std::vector<std::string> common = {"--ids", text, "--windows", "4", "--seqlen", "32"};
  std::vector<std::string> first = {"prune",      model("llama2"),      "-o",           at("one"),
                                    "--override", "*.down_proj.weight", "sparsity=0.25"};
  std::vector<std::string> second = {"prune",   model("llama2"), "-o",
                                     at("two"), "--plan",        at("one/plan.json")};
  for (auto* arguments : {&first, &second}) {
    arguments->insert(arguments->end(), common.begin(), common.end());
    const Finished result = run(*arguments);
    ASSERT_EQ(result.exit_code, 0) << result.error;
  }
  EXPECT_EQ(test::read_text(at("one/model.safetensors")), test::read_text(at("two/model.safetensors")));
  EXPECT_EQ(test::read_text(at("one/plan.json")), test::read_text(at("two/plan.json")));
}

// An order of channels goes through the plan's file, the record and verify.
TEST_F(ProgramTest, ChannelsThatChangedPlacesAreRecorded) {
  const std::vector<std::string> text = {"--ids",    ids(400), "--windows", "4",
                                         "--seqlen", "32",     "--method",  "wanda"};
  std::vector<std::string> first = {"prune",     model("qwen2"), "-o",        at("one"),
                                    "--pattern", "2:4",          "--permute", "all"};
  std::vector<std::string> second = {"prune", model("qwen2"), "-o", at("two"), "--plan", at("one/plan.json")};
  for (auto* arguments : {&first, &second}) {
    arguments->insert(arguments->end(), text.begin(), text.end());
    const Finished result = run(*arguments);
    ASSERT_EQ(result.exit_code, 0) << result.error;
  }
  EXPECT_EQ(test::read_text(at("one/model.safetensors")), test::read_text(at("two/model.safetensors")));
  const auto record = nlohmann::json::parse(test::read_text(at("one/swiftprune.json")));
  EXPECT_EQ(record.at("permute"), "all");
  EXPECT_EQ(record.at("weights_changed"), false);
  EXPECT_THAT(record.at("tensors").dump(), HasSubstr("channel_order"));
  const Finished verified = run({"verify", model("qwen2"), at("one")});
  EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.error;
  const Finished refused = run({"prune", model("qwen2"), "-o", at("three"), "--permute", "all"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.error, HasSubstr("pruned N:M"));
}

TEST_F(ProgramTest, WindowsAutoTellsWhatItRead) {
  const Finished result = run({"prune", model("llama2"), "-o", at("out"), "--method", "wanda", "--ids",
                               ids(2000), "--windows", "auto", "--seqlen", "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto calibration = nlohmann::json::parse(result.out).at("calibration");
  EXPECT_GE(calibration.at("windows").get<int>(), 1);
  EXPECT_EQ(calibration.at("stopping").at("changes").size(), calibration.at("windows").get<std::size_t>());
}

// Interrupted in the middle, then again and again at later moments until a run is through: nothing is there, or all of it.
TEST_F(ProgramTest, InterruptedRunsLeaveNothing) {
  const std::string text = ids(40000);
  const std::string before = test::read_text(model("llama2") + "/model.safetensors");
  // Without lines of progress, which a run on a busy machine is long enough for.
  const auto arguments = [&](const std::string& out) {
    return std::vector<std::string>{"prune",      model("llama2"), "-o",       at(out), "--ids",     text,
                                    "--windows",  "600",           "--seqlen", "64",    "--threads", "1",
                                    "--progress", "none"};
  };
  ASSERT_EQ(run(arguments("whole")).exit_code, 0);
  const std::string whole = test::read_text(at("whole/model.safetensors"));
  const auto interrupted = [&](pid_t child) {
    ::kill(child, SIGINT);
    const int code = wait_for(child);
    EXPECT_TRUE(hidden_files().empty());
    const std::string error = test::read_text(at("stderr"));
    if (fs::exists(at("out"))) {  // it was through when the signal came, or nearly
      EXPECT_EQ(test::read_text(at("out/model.safetensors")), whole);
      EXPECT_TRUE(code == 0 || code == 130 || code == -SIGINT) << code;
      if (code == 130) {
        EXPECT_THAT(error, HasSubstr("was written, what was to follow was not done"));
      }
    } else if (code == 130) {
      EXPECT_EQ(error, "swiftprune: interrupted: nothing was written\n");
    } else {
      EXPECT_EQ(code, -SIGINT);  // before the program watched for it
    }
    return code == 130 && !fs::exists(at("out"));
  };
  const pid_t working = start(arguments("out"), at("stdout"), at("stderr"));
  for (int i = 0; i < 60000 && hidden_files().empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(interrupted(working));
  for (int milliseconds = 5; milliseconds < 60000 && !fs::exists(at("out")); milliseconds *= 2) {
    const pid_t child = start(arguments("out"), at("stdout"), at("stderr"));
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    interrupted(child);
  }
  EXPECT_TRUE(test::read_text(model("llama2") + "/model.safetensors") == before);
}

TEST_F(ProgramTest, AKilledRunGoesOnToTheSameBytes) {
  const std::string text = ids(40000);
  const auto arguments = [&](const std::string& out) {
    return std::vector<std::string>{"prune",     model("llama2"), "-o",       at(out), "--ids",     text,
                                    "--windows", "600",           "--seqlen", "64",    "--threads", "1"};
  };
  ASSERT_EQ(run(arguments("whole")).exit_code, 0);
  std::vector<std::string> resumed = arguments("out");
  resumed.push_back("--resume");
  for (int milliseconds = 20; milliseconds < 60000; milliseconds *= 2) {
    const pid_t child = start(resumed, at("stdout"), at("stderr"));
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    ::kill(child, SIGKILL);
    if (wait_for(child) == 0) break;
    EXPECT_FALSE(fs::exists(at("out")));
  }
  EXPECT_EQ(test::read_text(at("out/model.safetensors")), test::read_text(at("whole/model.safetensors")));
  EXPECT_TRUE(hidden_files().empty());
}

TEST_F(ProgramTest, ResumeRefusesOtherOptions) {
  const std::string text = ids(4000);
  std::vector<std::string> arguments = {"prune", model("llama2"), "-o", at("out"), "--ids", text, "--windows",
                                        "60",    "--seqlen",      "64", "--resume"};
  const fs::path partial = at(".out.partial");
  pid_t child = start(arguments, at("stdout"), at("stderr"));
  while (!fs::exists(partial / "journal.jsonl") || fs::file_size(partial / "journal.jsonl") == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(child, SIGKILL);
  if (wait_for(child) == 0) GTEST_SKIP() << "the run was through before it could be killed";
  arguments.insert(arguments.end(), {"--sparsity", "0.25"});
  const Finished result = run(arguments);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.error, HasSubstr("--resume"));
  EXPECT_TRUE(fs::exists(partial));
  arguments.erase(std::find(arguments.begin(), arguments.end(), "--resume"));
  EXPECT_EQ(run(arguments).exit_code, 0);
  EXPECT_TRUE(hidden_files().empty());
}

TEST_F(ProgramTest, RefusesWrongOptions) {
  const std::string text = ids(400);
  const auto prune = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"prune", model("llama2"), "-o", at("out"), "--ids", text};
    const std::pair<const char*, const char*> defaults[] = {{"--windows", "2"}, {"--seqlen", "32"}};
    for (const auto& [flag, value] : defaults) {
      if (more[0] != flag) arguments.insert(arguments.end(), {flag, value});
    }
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  expect_refused(prune({"--sparsity", "1.5"}), 2, "--sparsity");
  expect_refused(prune({"--sparsity", "nan"}), 2, "--sparsity");
  for (const char* number : {"--sparsity", "--seed"})
    expect_refused(prune({number, ""}), 2, std::string(number) + ": found ");
  ::setenv("SWIFTPRUNE_ISA", "AVX9", 1);
  expect_refused({"families"}, 2, "SWIFTPRUNE_ISA: found 'AVX9'");
  ::unsetenv("SWIFTPRUNE_ISA");
  expect_refused(prune({"--device", "cpu", "--gpu-memory", "6XB"}), 2, "--gpu-memory");
  expect_refused(prune({"--pattern", "2:4", "--sparsity", "0.3"}), 2, "--sparsity");
  expect_refused(prune({"--pattern", "3:7"}), 3, "--skip");
  expect_refused(prune({"--pattern", "5:4"}), 2, "5:4");
  expect_refused(prune({"--method", "nothing"}), 2, "--method");
  expect_refused(prune({"--group", "32"}), 2, "--quantize");
  expect_refused(prune({"--quantize", "int5"}), 2, "--quantize");
  expect_refused(prune({"--quantize", "int4", "--group", "row", "--method", "wanda"}), 2, "aligned-admm");
  expect_refused(prune({"--method", "gptq"}), 2, "--quantize");
  expect_refused(prune({"--quantize", "int8,int5"}), 2, "--quantize");
  expect_refused(prune({"--quantize", "int4,int3", "--group", "row"}), 2, "--bits");
  expect_refused(prune({"--bits", "0"}), 2, "--bits");
  expect_refused(prune({"--bits", "9", "--group", "row", "--sparsity", "0.5"}), 2, "quantize --bits");
  expect_refused(prune({"--bits", "9", "--group", "row", "--allocate", "none"}), 2, "--allocate none");
  expect_refused(prune({"--bits", "9", "--group", "row", "--pattern", "2:4"}), 2, "row or layer");
  expect_refused(prune({"--bits", "9", "--group", "row", "--plan", "plan.json"}), 2, "--plan");
  expect_refused(prune({"--bits", "9", "--group", "row", "--method", "wanda"}), 2, "aligned-admm");
  expect_refused(prune({"--bits", "9", "--group", "row", "--override", "*.q_proj.weight", "sparsity=0.2"}), 2,
                 "its grid as well");
  expect_refused(prune({"--bits", "1", "--group", "row"}), 2, "expected at least");
  expect_refused(prune({"--bits", "60", "--group", "row"}), 2, "expected at most");
  expect_refused(prune({"--bits", "9", "--group", "row", "--skip", "*"}), 2, "no linear");
  expect_refused(prune({"--store", "dense"}), 2, "--store");
  expect_refused(prune({"--quantize-embeddings", "int8"}), 2, "--quantize-embeddings");
  expect_refused(prune({"--select", "ewma", "--method", "paper", "--alpha", "2"}), 2, "alpha");
  expect_refused(prune({"--windows", "0"}), 2, "--windows");
  expect_refused(prune({"--windows", "1000"}), 3, "ids.u16");
  expect_refused(prune({"--seqlen", "100000"}), 2, "--seqlen");
  expect_refused(prune({"--override", "*.nothing", "sparsity=0.1"}), 2, "--override");
  expect_refused(prune({"--allocate", "sensitivity", "--pattern", "2:4"}), 2, "--allocate");
  expect_refused({"prune", at("missing"), "-o", at("out")}, 3, "missing");
  expect_refused(
      {"prune", model("llama2"), "-o", at("out"), "--calibration", at("missing.txt"), "--seqlen", "32"}, 3,
      "missing.txt");
  std::ofstream(at("short.txt")) << "too short";
  expect_refused(
      {"prune", model("llama2"), "-o", at("out"), "--calibration", at("short.txt"), "--seqlen", "32"}, 3,
      "tokenizer");
}

TEST_F(ProgramTest, ExportRefusesWhatNoTypeCanBe) {
  const auto exported = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"export", model("llama2"), "--gguf", at("out")});
    return more;
  };
  expect_refused(exported({"--type", "q4_k_xl"}), 2, "--type");
  expect_refused(exported({"--type", "iq4_nl"}), 2, "--type");
  expect_refused(exported({"--type", "f16", "--calibration", ids(400)}), 2,
                 "--calibration: found --type f16");
  expect_refused(exported({"--calibration", ids(400)}), 2, "--calibration: found --type auto");
  expect_refused(exported({"--type", "q4_k", "--windows", "0", "--calibration", ids(400)}), 2, "--windows");
  expect_refused(exported({"--type", "q4_k", "--calibration", at("none.u16")}), 3, "none.u16");
}

TEST_F(ProgramTest, RefusesAFullFolderAndBrokenFiles) {
  fs::create_directory(at("full"));
  std::ofstream(at("full/file")) << "x";
  expect_refused({"prune", model("llama2"), "-o", at("full"), "--method", "magnitude"}, 3, "not empty");

  fs::copy(model("llama2"), at("broken"));
  fs::resize_file(at("broken/model.safetensors"), 2000);
  expect_refused({"prune", at("broken"), "-o", at("out"), "--method", "magnitude"}, 3, "model.safetensors");
  fs::copy_file(model("llama2") + "/model.safetensors", at("broken/model.safetensors"),
                fs::copy_options::overwrite_existing);
  std::ofstream(at("broken/config.json")) << R"({"model_type": "unknown_model"})";
  expect_refused({"prune", at("broken"), "-o", at("out"), "--method", "magnitude"}, 3, "unknown_model");
}

// Each step's record holds the ones before it, and compare names them all.
TEST_F(ProgramTest, ShrinksThenPrunesThenPacks) {
  const std::string text = ids(400);
  const std::vector<std::string> calibration = {"--ids", text, "--windows", "4", "--seqlen", "32"};
  std::vector<std::string> shrink = {"shrink",  model("llama2"), "-o",      at("shrunk"), "--ratio", "0.3",
                                     "--units", "mlp,heads",     "--align", "1",          "--json"};
  shrink.insert(shrink.end(), calibration.begin(), calibration.end());
  Finished result = run(shrink);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto shrunk = nlohmann::json::parse(result.out);
  EXPECT_GT(shrunk.at("seconds").at("total").get<double>(), 0.0);
  std::vector<std::string> prune = {"prune", at("shrunk"), "-o", at("pruned"), "--sparsity", "0.5"};
  prune.insert(prune.end(), calibration.begin(), calibration.end());
  result = run(prune);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  result = run(
      {"pack", at("pruned"), "--out", at("packed"), "--quantize", "int8", "--quantize-embeddings", "int8"});
  ASSERT_EQ(result.exit_code, 0) << result.error;

  const auto record = nlohmann::json::parse(test::read_text(at("packed/swiftprune.json")));
  EXPECT_EQ(record.at("method"), "best");
  EXPECT_EQ(record.at("previous"), shrunk);
  result = run({"compare", model("llama2"), at("shrunk"), at("pruned"), at("packed"), "--ids", text,
                "--windows", "4", "--seqlen", "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto report = nlohmann::json::parse(result.out);
  const auto steps = [&](std::size_t m) {
    std::vector<std::string> methods;
    if (!report.at("models")[m].contains("steps")) return methods;
    for (const auto& step : report.at("models")[m].at("steps")) methods.push_back(step.at("method"));
    return methods;
  };
  EXPECT_THAT(steps(0), IsEmpty());
  EXPECT_THAT(steps(1), ElementsAre("shrink"));
  EXPECT_THAT(steps(2), ElementsAre("shrink", "best"));
  EXPECT_THAT(steps(3), ElementsAre("shrink", "best", "pack int8, embeddings int8"));
  EXPECT_THAT(report.at("commands")[0].get<std::string>(), HasSubstr("swiftprune shrink "));
  EXPECT_THAT(report.at("commands")[0].get<std::string>(),
              HasSubstr("--ratio 0.3 --units mlp,heads --align 1"));
  EXPECT_THAT(report.at("commands")[1].get<std::string>(), HasSubstr("swiftprune prune "));
  EXPECT_EQ(report.at("commands").size(), 3u);  // each once, and compare itself
}

TEST_F(ProgramTest, ShrinkTakesExpertsOut) {
  const std::string dense = test::kExpertModels / "qwen3_moe", text = ids(400);
  const auto shrink = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"shrink", dense, "-o",        at(out), "--units",  "experts",
                                          "--ids",  text,  "--windows", "4",     "--seqlen", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const Finished result = run(shrink("fewer", {"--ratio", "0.4"}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("4 of 7 in each of 2 layers, 3 a token, by ours"));
  const auto record = nlohmann::json::parse(test::read_text(at("fewer/swiftprune.json")));
  const auto& experts = record.at("experts");
  EXPECT_EQ(experts.at("left"), 4);
  EXPECT_EQ(experts.at("layers").size(), 2u);
  EXPECT_EQ(experts.at("layers")[0].at("kept").size() + experts.at("layers")[0].at("removed").size(), 7u);
  EXPECT_EQ(nlohmann::json::parse(test::read_text(at("fewer/config.json"))).at("num_local_experts"), 4);
  const Finished evaluated =
      run({"eval", at("fewer"), "--text", text, "--seqlen", "32", "--windows", "2", "--json"});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.error;
  const auto perplexity = [](const Finished& of) {
    return nlohmann::json::parse(of.out).at("perplexity").get<double>();
  };
  // Packed experts are the same weights.
  ASSERT_EQ(run({"pack", at("fewer"), "--out", at("packed")}).exit_code, 0);
  const Finished packed =
      run({"eval", at("packed"), "--text", text, "--seqlen", "32", "--windows", "2", "--json"});
  ASSERT_EQ(packed.exit_code, 0) << packed.error;
  EXPECT_NEAR(perplexity(packed), perplexity(evaluated), 1e-2 * perplexity(evaluated));
  EXPECT_THAT(run({"inspect", at("fewer")}).out, HasSubstr("4 of 12 channels, 3 a token"));

  const auto refused = [&](const std::vector<std::string>& more, const std::string& message) {
    expect_refused(shrink("out", more), 2, message);
  };
  refused({}, "--ratio, --experts: found 0 of them, expected one");
  refused({"--ratio", "0.4", "--experts", "4"}, "found 2 of them");
  refused({"--experts", "2"}, "--experts: found a request that leaves 2 of 7 experts");
  refused({"--ratio", "0.9"}, "3 experts a token");
  refused({"--ratio", "0.4", "--align", "8"}, "--align: found it with --units experts");
  refused({"--ratio", "0.4", "--compensate", "bias"}, "expected of experts auto, none or refit");
  refused({"--ratio", "0.4", "--score", "wanda-sp"}, "expected of experts one of ours, reap");
  expect_refused({"shrink", model("llama2"), "-o", at("out"), "--ratio", "0.2", "--experts", "4"}, 2,
                 "--experts: found it with --units mlp");
  expect_refused({"shrink", model("llama2"), "-o", at("out"), "--ratio", "0.2", "--units", "experts"}, 2,
                 "a model of the family llama has none of");
}

TEST_F(ProgramTest, ShrinkRefusesWhatCannotBe) {
  const std::string text = ids(400);
  const auto shrink = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"shrink", name,        "-o", at("out"),  "--ids",
                                          text,     "--windows", "2",  "--seqlen", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const auto refused = [&](const std::string& name, const std::vector<std::string>& more, int code,
                           const std::string& message) {
    expect_refused(shrink(model(name), more), code, message);
  };
  refused("llama2", {}, 2, "--ratio, --target-params, --target-ms: found 0 of them, expected one");
  refused("llama2", {"--ratio", "1"}, 2, "--ratio: found 1, expected more than 0 and less than 1");
  refused("llama2", {"--ratio", "nan"}, 2, "--ratio: found 'nan'");
  refused("llama2", {"--ratio", "0.9"}, 2, "at least 32 channels (--align), one head group and one layer");
  refused("llama2", {"--ratio", "0.45", "--units", "heads"}, 2, "at least one head group and one layer");
  refused("llama2", {"--ratio", "0.2", "--align", "4096"}, 2,
          "--align: found 4096, expected at most the MLP's width");
  refused("mistral", {"--ratio", "0.1", "--units", "heads"}, 2,
          "share one key head, and a group goes as a whole; possible: mlp, layers");
  refused("pythia", {"--ratio", "0.1", "--units", "heads"}, 2, "has no head_dim in config.json");
  refused("phi3_longrope", {"--ratio", "0.1", "--units", "mlp,heads"}, 2, "possible: mlp, layers");
  refused("llama2", {"--ratio", "0.2", "--units", "rows"}, 2,
          "--units: found 'rows', expected mlp, heads, layers");
  refused("llama2", {"--ratio", "0.2", "--score", "luck"}, 2, "--score: found 'luck'");
  refused("llama2", {"--ratio", "0.2", "--compensate", "luck"}, 2, "--compensate: found 'luck'");
  refused("gemma3_text", {"--ratio", "0.2", "--align", "1", "--compensate", "bias"}, 2,
          "knows no bias there; expected none, refit or aligned");
  refused("llama2", {"--target-params", "5"}, 2, "--target-params: found 5, expected between");
  // Found before any work, the text included.
  fs::create_directory(at("full"));
  std::ofstream(at("full/file")) << "x";
  expect_refused({"shrink", model("llama2"), "-o", at("full"), "--ratio", "0.2", "--ids", at("missing.u16")},
                 3, "not empty");
  ASSERT_EQ(run({"prune", model("llama3"), "-o", at("zeros"), "--method", "magnitude"}).exit_code, 0);
  ASSERT_EQ(run({"pack", at("zeros"), "--out", at("packed")}).exit_code, 0);
  expect_refused({"shrink", at("packed"), "-o", at("out"), "--ratio", "0.2", "--ids", at("missing.u16")}, 3,
                 "a packed model cannot be shrunk; make it dense first: swiftprune unpack");
}

// Two installations side by side: which one runs, and with which library.
TEST_F(ProgramTest, TheVersionNamesTheFilesThatRun) {
  const std::string out = run({"--version"}).out;
  EXPECT_THAT(out, HasSubstr(fmt::format("\nprogram    {}\n", fs::canonical(SWIFTPRUNE_PROGRAM).string())));
  EXPECT_THAT(out, HasSubstr(fmt::format("\nlibrary    {} {}", SWIFTPRUNE_VERSION,
                                         fs::canonical(SWIFTPRUNE_PROGRAM).parent_path().string())));
}

TEST_F(ProgramTest, WhatAPersonMixesUpIsSaid) {
  const std::vector<std::string> prune = {"prune",         model("llama3"), "-o",        at("zeros"),
                                          "--method",      "fast",          "--seqlen",  "16",
                                          "--calibration", ids(200),        "--windows", "1"};
  std::vector<std::string> gated = prune;
  gated.insert(gated.end(), {"--gate", at("ids.u16"), "--max-kl", "1e6"});
  const Finished pruned = run(gated);
  ASSERT_EQ(pruned.exit_code, 0) << pruned.error;
  EXPECT_THAT(pruned.error, HasSubstr("--gate: this text calibrates, too"));
  EXPECT_THAT(pruned.error, HasSubstr("16 tokens calibrated, which say little"));
  const auto seconds = nlohmann::json::parse(test::read_text(at("zeros/swiftprune.json"))).at("seconds");
  double sum = -seconds.at("total").get<double>();
  for (const auto& [stage, value] : seconds.items()) sum += value.get<double>();
  EXPECT_NEAR(sum, seconds.at("total").get<double>(), 1e-6);  // all stages, text and the rest among them
  const Finished exchanged = run({"verify", at("zeros"), model("llama3")});
  EXPECT_EQ(exchanged.exit_code, 2);
  EXPECT_THAT(exchanged.error, HasSubstr("were the two exchanged?"));
}

}  // namespace
}  // namespace swiftprune
