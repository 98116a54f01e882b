// Options, folders and files that a command refuses before it works: one line, the exit code, nothing left behind.
#include <fstream>

#include "cli/program.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::ProgramTest;

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

}  // namespace
}  // namespace swiftprune
