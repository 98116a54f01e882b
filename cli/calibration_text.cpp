#include "calibration_text.h"

namespace swiftprune::cli {

void add_calibration_flags(CLI::App& command, CalibrationText& text) {
  command
      .add_option(
          "--calibration,--ids", text.sources,
          "Text (.txt, .jsonl, .json, also .gz and .zst; repeatable, with its share of the windows as "
          "FILE=WEIGHT), token ids (.u16, .u32), or self: text that the model writes itself")
      ->capture_default_str();
  command.add_option("--field", text.field, "Member of each .jsonl line that holds the text")
      ->capture_default_str();
  command.add_option("--seqlen", text.seqlen, "Tokens a window; by default at most the model's positions")
      ->capture_default_str()
      ->each([&text](const std::string&) { text.seqlen_given = true; })
      ->check(within(option_values::kSeqlen));
  command.add_option("--seed", text.seed, "Seed of the draws of text")->capture_default_str();
}

}  // namespace swiftprune::cli
