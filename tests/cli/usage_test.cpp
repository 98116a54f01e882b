// Mistakes that people make on the command line: each has one message that says what was found, what is expected and what
// was likely meant, and the documented exit code.
#include "cli/program.h"

#include <filesystem>

#include "support/temp_dir.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using test::Finished;

constexpr int kUsage = static_cast<int>(ErrorKind::kUsage),
              kBadInput = static_cast<int>(ErrorKind::kBadInput);

struct Mistake {
  std::vector<std::string> arguments;
  std::string message;  // a part of it
  int exit_code = kUsage;
};

class UsageTest : public test::ProgramTest {
 protected:
  void expect_told(const std::vector<Mistake>& mistakes) {
    for (const Mistake& mistake : mistakes) {
      const Finished run = this->run(mistake.arguments);
      SCOPED_TRACE(testing::PrintToString(mistake.arguments));
      EXPECT_EQ(run.exit_code, mistake.exit_code);
      EXPECT_THAT(run.error, testing::HasSubstr(mistake.message));
      EXPECT_THAT(run.error, testing::StartsWith("swiftprune: "));
      EXPECT_EQ(std::count(run.error.begin(), run.error.end(), '\n'), 1) << run.error;
      EXPECT_EQ(run.out, "");
    }
  }
};

TEST_F(UsageTest, NamesThatDoNotExist) {
  expect_told({
      {{"prun", "m"}, "'prun': no such command; did you mean prune? `swiftprune help` lists them"},
      {{"evaluate", "m"}, "did you mean eval?"},
      {{"convert", "m"}, "did you mean export?"},
      {{"xyzzy"}, "'xyzzy': no such command; `swiftprune help` lists them"},
      {{"m", "inspect"}, "found 'm', expected the command first: swiftprune inspect m"},
      {{"--json", "inspect", "m"}, "expected the command first: swiftprune inspect --json"},
      {{"--versoin"}, "did you mean --version?"},
      {{"help", "prun"}, "'prun': no such command; did you mean prune?"},
      {{"prune", "m", "-o", "p", "--sparcity", "0.5"},
       "--sparcity: no such option of prune; did you mean --sparsity? `swiftprune help prune` lists them"},
      {{"prune", "m", "--output", "p"}, "--output: no such option of prune; did you mean --out?"},
      {{"prune", "m", "-out", "p"}, "-out: no such option of prune; did you mean --out?"},
      {{"prune", "m", "-o", "p", "--calib", "t"}, "did you mean --calibration?"},
      {{"prune", "--model", "m"}, "expected MODEL without a name: swiftprune prune MODEL"},
      {{"quantize", "m", "-o", "p", "--sparsity", "0.5"},
       "--sparsity: no such option of quantize, but of prune, pilot, tune"},
      {{"generate", "m", "--prompt", "a", "--max_tokens", "4"}, "did you mean --max-tokens?"},
  });
}

TEST_F(UsageTest, WhatIsMissingOrTooMuch) {
  expect_told({
      {{"prune"}, "prune: MODEL and --out are missing; for example: swiftprune prune ./SmolLM2-135M --out"},
      {{"prune", "m"}, "prune: --out is missing; for example: swiftprune prune"},
      {{"prune", "m", "p"}, "prune: --out is missing; found 'p' without an option; did you mean --out p?"},
      {{"eval", "m", "own.txt"}, "eval: found 'own.txt' without an option; did you mean --text own.txt?"},
      {{"export", "m", "m.gguf"},
       "--gguf is missing; found 'm.gguf' without an option; did you mean --gguf m.gguf?"},
      {{"generate", "m", "Hello"}, "did you mean --prompt Hello?"},
      {{"eval", "m", "--text"}, "--text: found nothing, expected a value behind it"},
      {{"prune", "m", "-o", "p", "--sparsity"}, "--sparsity: found nothing, expected a number behind it"},
      {{"eval", "m", "--seqlen", "32", "--json", "--seqlen=64"}, "--seqlen: found 2 times, expected it once"},
      {{"methods", "wanda"}, "methods: found 'wanda', expected no argument"},
      {{"completion"}, "completion: SHELL is missing; for example: swiftprune completion bash\n"},
  });
}

TEST_F(UsageTest, ValuesThatCannotBe) {
  const std::string m = model("llama2"), out = at("p");
  expect_told({
      {{"prune", m, "-o", out, "--sparsity", "half"},
       "--sparsity: found 'half', expected a number such as 0.5 or 50%"},
      {{"prune", m, "-o", out, "--sparsity", "0,5"},
       "--sparsity: found '0,5', expected a number such as 0.5 or 50%"},
      {{"prune", m, "-o", out, "--sparsity", "50"},
       "--sparsity: found '50', expected a share below 1; 50 % is 0.5 or 50%"},
      {{"prune", m, "-o", out, "--sparsity", "150%"}, "--sparsity: found 1.5, expected 0 <= sparsity < 1"},
      {{"shrink", m, "-o", out, "--ratio", "25"},
       "--ratio: found '25', expected a share below 1; 25 % is 0.25 or 25%"},
      {{"shrink", m, "-o", out, "--ratio", "1.5"}, "--ratio: found 1.5"},
      {{"prune", m, "-o", out, "--threads", "many"}, "--threads: found 'many', expected 0 to 4096"},
      {{"prune", m, "-o", out, "--threads", "0.5"}, "--threads: found '0.5', expected a whole number"},
      {{"prune", m, "-o", out, "--threads", ""}, "--threads: found '', expected 0 to 4096"},
      {{"prune", m, "-o", ""}, "--out: found nothing, expected a name"},
      {{"prune", "", "-o", out}, "MODEL: found nothing, expected a name"},
      {{"prune", m, "-o", out, "--lambda", ""}, "--lambda: found nothing, expected a number"},
      {{"prune", m, "-o", out, "--compute", "bf61"},
       "--compute: found 'bf61', expected one of auto, f32, bf16; did you mean bf16?"},
      {{"eval", m, "--text", "t", "--windows", "all"}, "--windows: found 'all', expected 0 or more"},
      {{"quantize", m, "-o", out, "--quantize", "int5"},
       "--quantize: found 'int5', expected some of int8, int4, int3"},
      {{"export", m, "--gguf", at("m.gguf"), "--type", "q4km"}, "did you mean q4_k_m?"},
      {{"prune", m, "-o", out, "--gpu-memory", "6GB"},
       "--gpu-memory: found 6GB, but --device cpu uses no GPU"},
      {{"prune", m, "-o", out, "--pattern", "4:2"}, "--pattern: found '4:2', expected row, layer, N:M"},
      {{"tune", m, "-o", out, "--sparsity", "0.5", "--patterns", "2:4,x"},
       "--patterns: found 'x', expected row"},
      {{"verify", m, m, "--pattern", "4:2"}, "--pattern: found '4:2', expected row"},
      {{"pilot", m, "--text", "t", "--pattern", "none", "4:2"}, "--pattern: found '4:2', expected row"},
      {{"prune", m, "-o", out, "--method", "bset"}, "gptq; did you mean best?"},
      {{"serve", m, "--port", "99999"}, "--port: found '99999', expected 0 to 65535"},
  });
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(UsageTest, FilesThatAreNotWhatIsExpected) {
  const std::string m = at("dense_model"), out = at("p"), text = at("own.txt");
  std::filesystem::copy(model("llama2"), m);
  write_tokenizer(m);
  test::write_text(at("empty.txt"), "");
  test::write_text(text, "a b c");
  std::filesystem::create_directory(at("folder"));
  const auto prune = [&](const std::string& from, const std::string& calibration) {
    return std::vector<std::string>{"prune", from, "-o", out, "--calibration", calibration};
  };
  expect_told({
      {prune(m, "wikitext"), "wikitext: no such file; expected one with text (.txt, .jsonl", kBadInput},
      {prune(m, at("empty.txt")), "(is the file empty?), expected at least", kBadInput},
      {prune(m, at("folder")), "folder: found a folder, expected a file", kBadInput},
      {prune(text, text), "own.txt: found a file, expected a Hugging Face model folder", kBadInput},
      {prune(m + "/config.json", text), "found one file of a model, expected its folder: " + m, kBadInput},
      {prune(at("folder"), text),
       "expected a Hugging Face model folder (config.json and these) or a .gguf file", kBadInput},
      {prune("https://huggingface.co/Org/Model/tree/v2", text),
       "get it with `hf download Org/Model --revision v2`", kBadInput},
      {{"import", m, out}, "found a folder, expected a file", kBadInput},
      {{"import", "none.gguf", out}, "none.gguf: no such file", kBadInput},
      {{"import", text, out}, "found another kind of file, expected a GGUF file", kBadInput},
  });
  EXPECT_FALSE(std::filesystem::exists(out));
  ASSERT_EQ(run({"prune", m, "-o", at("dense"), "--method", "magnitude"}).exit_code, 0);
  ASSERT_EQ(run({"pack", at("dense"), "-o", at("packed")}).exit_code, 0);
  for (const std::string method : {"best", "fast", "rtn"}) {
    const Finished again = run({"prune", at("packed"), "-o", out, "--method", method, "--calibration",
                                ids(400), "--windows", "2", "--seqlen", "32"});
    EXPECT_EQ(again.exit_code, kBadInput) << again.error;
    EXPECT_THAT(again.error, testing::HasSubstr(
                                 "a packed model cannot be pruned; make it dense first: swiftprune unpack"));
  }
  const Finished exchanged = run({"compare", at("dense"), m, "--ids", ids(400), "--seqlen", "32"});
  EXPECT_THAT(exchanged.error, testing::HasSubstr("were the two exchanged?"));
  // Of several models the message tells which.
  std::filesystem::copy(m, at("unknown"));
  test::write_text(at("unknown/config.json"), R"({"model_type": "rwkv"})");
  expect_told({{{"compare", m, at("unknown"), "--text", text},
                "unknown/config.json: field 'model_type': found 'rwkv', which is not supported",
                kBadInput}});
}

TEST_F(UsageTest, InspectSaysWhyAModelCannotBeUsed) {
  std::filesystem::copy(model("llama2"), at("m"));
  nlohmann::json config = nlohmann::json::parse(test::read_text(at("m/config.json")));
  config["rms_norm_eps"] = 0;
  config["architectures"] = {"a\x1b[2J"};
  test::write_text(at("m/config.json"), config.dump());
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"inspect", at("m")}, {"inspect", at("m"), "--quiet"}}) {
    const Finished found = run(command);
    EXPECT_EQ(found.exit_code, 0);
    EXPECT_THAT(found.out, testing::HasSubstr("problem       " + at("m/config.json") +
                                              ": field 'rms_norm_eps': found 0"));
    EXPECT_THAT(found.out, testing::HasSubstr("\"a\\u001b[2J\" (cannot be used)"));
  }
}

TEST_F(UsageTest, SharesMayBePercentAndChoicesMayBeCapitals) {
  for (const std::string sparsity : {"50%", "0.5"}) {
    const Finished run = this->run({"prune", model("llama2"), "-o", at(sparsity), "--sparsity", sparsity,
                                    "--method", "magnitude", "--compute", "F32", "--json"});
    ASSERT_EQ(run.exit_code, 0) << run.error;
    const auto record = nlohmann::json::parse(run.out);
    EXPECT_EQ(record["command"]["options"]["sparsity"], 0.5);
    EXPECT_EQ(record["command"]["options"]["compute"], "f32");
  }
  EXPECT_EQ(test::read_text(at("50%/model.safetensors")), test::read_text(at("0.5/model.safetensors")));
}

TEST_F(UsageTest, HelpAndVersionAsWords) {
  const std::string help = run({"prune", "--help"}).out;
  EXPECT_THAT(help, testing::HasSubstr("--sparsity"));
  EXPECT_EQ(run({"help", "prune"}).out, help);
  EXPECT_EQ(run({"prune", "help"}).out, help);
  EXPECT_EQ(run({"help"}).out, run({"--help"}).out);
  EXPECT_EQ(run({"version"}).out, run({"--version"}).out);
  const Finished bare = run({});
  EXPECT_EQ(bare.exit_code, kUsage);
  EXPECT_THAT(bare.error, testing::HasSubstr("swiftprune: found no command"));
  EXPECT_THAT(bare.error, testing::HasSubstr("Set weights to zero"));
}

TEST_F(UsageTest, VersionTellsTheLibrariesOfOthers) {
  EXPECT_THAT(run({"--version"}).out, testing::ContainsRegex("oneDNN [0-9]+[.][0-9]"));
  const Finished run = this->run({"--version", "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.error;
  const auto version = nlohmann::json::parse(run.out);
  for (const char* name : {"oneDNN", "OpenSSL", "PCRE2", "zstd", "zlib", "sentencepiece"})
    EXPECT_THAT(version["libraries"].value(name, ""), testing::ContainsRegex("^[0-9]+[.][0-9]")) << name;
  EXPECT_EQ(version["library"]["version"], version["version"]);
  EXPECT_FALSE(version["commit"].get<std::string>().empty());
}

}  // namespace
}  // namespace swiftprune
