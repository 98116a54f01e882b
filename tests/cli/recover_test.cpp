// recover without PyTorch: a shell script stands in for the interpreter and answers as the trainer does. That the
// trainer itself trains is measured (docs/evaluation.md).
#include <fstream>

#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Recover : public test::ProgramTest {
 protected:
  void SetUp() override {
    const Finished pruned = run({"prune", dense(), "-o", at("pruned"), "--method", "magnitude", "-q"});
    ASSERT_EQ(pruned.exit_code, 0) << pruned.error;
  }
  static std::string dense() { return model("llama2"); }
  // The interpreter: $1 is the trainer, $2 its job. What it does is the rest of the script.
  std::string interpreter(const std::string& script) {
    const fs::path file = at("python");
    std::ofstream(file) << "#!/bin/sh\nout=$(sed 's/.*\"out\":\"\\([^\"]*\\)\".*/\\1/' \"$2\")\n"
                        << script << "\n";
    fs::permissions(file, fs::perms::owner_all);
    return file;
  }
  static std::string gives(const std::string& folder) {
    return "cp -r " + folder +
           " \"$out\"\n"
           R"(echo '{"stage": "train", "done": 1, "total": 2}'; echo noise from a library
echo '{"result": {"kl_before": 0.5, "kl_after": [0.25, 0.3], "kl": 0.25, "steps": 8, "train_seconds": 1.5, )"
           R"("peak_gpu_bytes": 0, "torch": "2", "transformers": "5"}}')";
  }
  std::vector<std::string> recover(const std::string& python, const std::string& from = "pruned") {
    return {"recover", at(from),   "--dense", dense(),     "-o", at("out"),  "--ids",
            ids(3000), "--seqlen", "64",      "--windows", "20", "--python", python};
  }
};

TEST_F(Recover, PutsTheTrainedWeightsIntoThePrunedModelsFiles) {
  const Finished result = run(recover(interpreter(gives(at("pruned")))));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("0.5000 before, 0.2500 behind"));
  EXPECT_EQ(test::read_text(at("out/model.safetensors")), test::read_text(at("pruned/model.safetensors")));
  const auto record = nlohmann::json::parse(test::read_text(at("out/swiftprune.json")));
  EXPECT_EQ(record.at("retrained"), true);
  EXPECT_EQ(record.at("recovery").at("kl_of_epochs").size(), 2u);
  EXPECT_EQ(record.at("previous").at("method"), "magnitude");
  EXPECT_EQ(run({"verify", dense(), at("out")}).exit_code, 0);
  EXPECT_THAT(hidden_files(), IsEmpty());
}

TEST_F(Recover, RefusesATrainerThatDidNotKeepTheZeros) {
  expect_refused(recover(interpreter(gives(dense()))), 1, "was pruned and is");
  EXPECT_THAT(hidden_files(), IsEmpty());
}

TEST_F(Recover, SaysWhyTheTrainingFailed) {
  expect_refused(recover(interpreter(
                     R"(echo '{"error": "torch is not there: pip install torch", "input": false}'; exit 3)")),
                 1, "pip install torch");
  expect_refused(recover(interpreter(R"(echo '{"error": "cannot open it", "input": true}'; exit 2)")), 3,
                 "cannot open it");
  expect_refused(recover(interpreter("echo Traceback >&2; echo MemoryError >&2; exit 1")), 1,
                 "ended with code 1 and no result: Traceback MemoryError");
  expect_refused(recover(interpreter(R"(echo '{"result": {"kl_before": "much"}}')")), 3, "kl_before");
  expect_refused(recover(at("no_python")), 1, "no_python: cannot be started");
  EXPECT_THAT(hidden_files(), IsEmpty());
}

// Before the model writes its own text, which takes long.
TEST_F(Recover, WithoutTextOfItsOwnTheTrainerIsAskedFirst) {
  const std::string python =
      interpreter(R"(echo '{"error": "torch is not there: pip install torch", "input": false}'; exit 3)");
  const Finished result = run({"recover", at("pruned"), "--dense", dense(), "-o", at("out"), "--python",
                               python, "--progress", "json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.error, "swiftprune: torch is not there: pip install torch\n");
  EXPECT_THAT(hidden_files(), IsEmpty());
}

TEST_F(Recover, RefusesWhatItCannotTrain) {
  expect_refused({"recover", dense(), "--dense", dense(), "-o", at("out")}, 2,
                 "found " + dense() + ", which is MODEL");
  const std::string python = interpreter("exit 9");
  ASSERT_EQ(run({"pack", at("pruned"), "-o", at("packed"), "-q"}).exit_code, 0);
  expect_refused(recover(python, "packed"), 3, "found a packed model");
  ASSERT_EQ(run({"quantize", dense(), "-o", at("grid"), "--method", "rtn", "--group", "row", "--store",
                 "dense", "-q"})
                .exit_code,
            0);
  expect_refused(recover(python, "grid"), 3, "weights on a grid (int4(");
  auto few = recover(python);
  few.insert(few.end(), {"--check-windows", "20"});
  expect_refused(few, 2, "--windows: found 20");
  auto gpus = recover(python);
  gpus.insert(gpus.end(), {"--gpus", "2"});
  expect_refused(gpus, 2, "--gpus: found 2 with --device cpu");
  auto short_text = recover(python);
  std::replace(short_text.begin(), short_text.end(), std::string("20"), std::string("60"));  // of 3000 ids
  short_text.insert(short_text.end(), {"--check-windows", "50"});
  expect_refused(short_text, 3, "found text for 46 windows");
}

}  // namespace
}  // namespace swiftprune
